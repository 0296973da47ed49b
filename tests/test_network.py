"""The network as a whole: its step, its training, its file."""

import inspect
import itertools
import math

import numpy as np
import pytest

import network as module
from app.config import Config
from data.augment import Distortion
from network import SCHEDULES, DivergenceError, Network, pixel_mean_std
from nn import memory
from nn.architecture import mlp, parse
from nn.layers import ACTIVATIONS, Dense, ReLU, Sigmoid
from nn.losses import distilled

from .test_layers import slope

RNG = np.random.default_rng(2)


def small(seed=0, dtype="float64", loss="cross_entropy", hidden=(6,), activation="tanh"):
    return Network(mlp(hidden, activation), loss=loss, seed=seed, dtype=dtype)


def flat(net):
    return np.concatenate([a.ravel() for a in net.parameters().values()])


def penalty(net, decay):
    """The L2 term that `update` takes the gradient of: of all weights, and of nothing else."""
    return decay / 2 * sum((a**2).sum() for name, a in net.parameters().items() if name.endswith(".W"))


def records(net, digits, **settings):
    (x, y), validation = digits
    return list(net.fit(x, y, validation, **({"epochs": 2, "batch_size": 50, "lr": 0.02} | settings)))


# --- one step ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("hidden", [(), (6,), (6, 5)])
def test_step_follows_the_gradient_of_loss_and_penalty(loss, activation, hidden):
    """What `update` subtracts is lr times the derivative of loss + L2 term, along random directions."""
    net = small(loss=loss, hidden=hidden, activation=activation)
    for a in net.parameters().values():
        a[...] = RNG.standard_normal(a.shape) * 0.3
    x, labels, decay, lr = RNG.standard_normal((784, 5)), RNG.integers(0, 10, 5), 0.37, 0.5

    def objective():
        return net.loss.forward(net.forward(x), labels) + penalty(net, decay)

    before = net.snapshot()
    directions = {name: RNG.standard_normal(a.shape) for name, a in before.items()}
    slopes = {name: slope(objective, a, directions[name]) for name, a in net.parameters().items()}
    objective()
    net.backward(net.loss.backward())
    net.update(lr, momentum=0, weight_decay=decay)
    for name, a in net.parameters().items():
        gradient = (before[name] - a) / lr
        assert (gradient * directions[name]).sum() == pytest.approx(slopes[name], rel=1e-6, abs=1e-8), name


CNN = "conv 3 3 stride 2, batchnorm, relu, pool 2, dense 6, batchnorm, tanh"


def small_cnn(seed=0, dtype="float32"):
    """A small network with every kind of layer."""
    return Network(parse(CNN), seed=seed, dtype=dtype)


def test_step_of_a_convolutional_network():
    """As above, with convolution, pooling and batch normalisation; see `penalty`."""
    net, decay = small_cnn(dtype="float64"), 0.37
    x, labels = RNG.standard_normal((28, 1, 28, 5)), RNG.integers(0, 10, 5)

    def objective():
        return net.loss.forward(net.forward(x, training=True), labels) + penalty(net, decay)

    before = net.snapshot()
    directions = {name: RNG.standard_normal(a.shape) for name, a in net.parameters().items()}
    slopes = {name: slope(objective, a, directions[name]) for name, a in net.parameters().items()}
    objective()
    net.backward(net.loss.backward())
    net.update(1.0, momentum=0, weight_decay=decay)
    for name, a in net.parameters().items():
        assert ((before[name] - a) * directions[name]).sum() == pytest.approx(slopes[name], rel=1e-6, abs=1e-8), name


def test_update_bn_stats_averages_over_all_images():
    net = Network(parse("dense 3, batchnorm, relu"), seed=1, dtype="float64")
    images = np.random.default_rng(2).integers(0, 256, (2300, 28, 28), dtype=np.uint8)
    net.update_bn_stats(images)
    z = net.layers[0].forward(net.standardize(images)).copy()
    parts = np.split(z, [1000, 2000], axis=1)
    state = net.layers[1].state
    assert state["running_mean"] == pytest.approx(z.mean(axis=1))
    assert state["running_variance"] == pytest.approx(sum(p.var(axis=1, ddof=1) * p.shape[1] for p in parts) / 2300)
    before = {name: a.copy() for name, a in state.items()}
    net.forward(net.standardize(images[:10]), training=True)
    batch = z[:, :10].mean(axis=1)
    assert state["running_mean"] == pytest.approx(0.9 * before["running_mean"] + 0.1 * batch), "then as ever"
    with pytest.raises(ValueError, match="images must be uint8"):
        net.update_bn_stats(images.astype(float))
    assert net.layers[1].running_update == pytest.approx(0.1), "also after an error"


@pytest.mark.parametrize("augment", [Distortion(30, elastic=2.0), None])
def test_after_augmentation_batch_norm_statistics_are_of_the_undistorted_images(digits, augment):
    net = small_cnn()
    records(net, digits, epochs=2, lr=0.05, augment=augment)
    trained = net.snapshot()
    net.update_bn_stats(digits[0][0])
    assert all(np.allclose(net.snapshot()[name], a, 1e-4, 1e-5) for name, a in trained.items()) == bool(augment)


def test_batch_norm_statistics_of_sorted_data_cover_every_class(digits, monkeypatch):
    monkeypatch.setattr(module, "BN_STATS_IMAGES", 60)  # as many as there are of a class
    (x, y), validation = digits
    order = np.argsort(y, kind="stable")
    accuracies = [
        records(small_cnn(), (pair, validation), epochs=3, lr=0.05, augment=Distortion(5))[-1]["validation_accuracy"]
        for pair in ((x, y), (x[order], y[order]))
    ]
    assert accuracies[1] > accuracies[0] - 0.1, accuracies


def test_a_convolutional_network_learns_resumes_and_is_saved(digits, tmp_path):
    """Trained in one go, or stopped, written down and resumed: the same bytes. Loaded again: the same answers."""
    settings = {"epochs": 4, "lr": 0.05, "augment": Distortion(5, 0.1, 0.1, 1, 0.5)}
    whole = small_cnn()
    history = records(whole, digits, **settings)
    assert history[-1]["validation_accuracy"] > 0.5
    part = small_cnn()
    (x, y), validation = digits
    fit = part.fit(x, y, validation, batch_size=50, **settings)
    done = [next(fit), next(fit)]
    state, velocity = part.snapshot(), part.velocity.copy()
    fit.close()
    assert {"1.running_mean", "1.running_variance", "6.running_mean"} <= set(state)
    other = small_cnn(seed=9)
    other.restore(state)
    other.velocity[:] = velocity
    records(other, digits, history=done, **settings)
    assert all((other.snapshot()[name] == a).all() for name, a in whole.snapshot().items())
    whole.save(tmp_path / "m.npz")
    again = Network.load(tmp_path / "m.npz")
    assert (again.predict_proba(x) == whole.predict_proba(x)).all()
    assert again.parameter_count == sum(a.size for a in whole.parameters().values())


def test_augmentation_has_a_stream_of_its_own(digits):
    """Variants change what is learned, but neither the first weights nor the order; new ones come every epoch."""
    seen = []

    def same(images, rng, progress):
        seen.append((rng.integers(1 << 30), progress))
        return images

    plain, augmented = small(), small()
    records(plain, digits, epochs=3)
    records(augmented, digits, epochs=3, augment=same)
    assert (flat(plain) == flat(augmented)).all() and len({number for number, _ in seen}) == 3
    assert [progress for _, progress in seen] == [0, 1 / 3, 2 / 3]
    first = seen.copy()
    records(small(), digits, epochs=3, augment=same)
    assert seen[3:] == first


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("chunk", [160_000, 100])
def test_update_is_the_textbook_rule(nesterov, chunk, monkeypatch):
    """Seven steps of the one matrix product against the rule written out, with other lr and gradients each time."""
    monkeypatch.setattr(memory, "UPDATE_CHUNK", chunk)
    net = small()
    w = net.snapshot()
    v = {name: np.zeros_like(a) for name, a in w.items()}
    momentum, decay = 0.8, 0.1
    for step in range(7):
        lr = 0.1 / (step + 1)
        for i, layer in enumerate(net.layers):
            for name, gradient in layer.grads.items():
                gradient[...] = RNG.standard_normal(gradient.shape)
                key = f"{i}.{name}"
                g = gradient + decay * w[key] if name == "W" else gradient.copy()
                v[key] = momentum * v[key] + g
                w[key] = w[key] - lr * (g + momentum * v[key] if nesterov else v[key])
        net.update(lr, momentum, decay, nesterov)
    for key, a in net.parameters().items():
        assert a == pytest.approx(w[key], rel=1e-12, abs=1e-14)


def test_every_parameter_moves(digits):
    net = Network(mlp([16]))
    before = net.snapshot()
    records(net, digits, epochs=1)
    for name, a in net.parameters().items():
        assert (a != before[name]).mean() > 0.9, name


def test_first_loss_is_near_ln_10(digits):
    (x, y), _ = digits
    for hidden in ([], [64]):
        net = Network(mlp(hidden, init="small"))
        assert net.evaluate(x, y)["loss"] == pytest.approx(math.log(10), rel=0.1)


def test_one_batch_can_be_overfitted(digits):
    (x, y), _ = digits
    for loss, lr in [("cross_entropy", 0.02), ("mse", 0.001)]:
        net = Network(mlp([64]), loss=loss)
        *_, last = net.fit(x[:32], y[:32], epochs=800, batch_size=32, lr=lr, schedule="constant", weight_decay=0)
        assert last["train_accuracy"] == 1 and last["train_loss"] < 0.01


def test_more_decay_gives_smaller_weights(digits):
    lengths = []
    for decay in (0, 0.01, 0.1):
        net = Network(mlp([16]))
        records(net, digits, weight_decay=decay, epochs=4)
        lengths.append(penalty(net, 2.0))
    assert lengths[0] > 1.02 * lengths[1] > 1.02**2 * lengths[2]


def test_weight_decay_applies_to_weights_only():
    net = small_cnn(dtype="float64")  # convolution, batch norm and dense
    for a in net.parameters().values():
        a += 1
    before = net.snapshot()
    for factor in 0.5, 0.25:  # with no gradients; from both sides of the memory
        net.update(0.1, weight_decay=5)
        for name, a in net.parameters().items():
            assert a == pytest.approx(before[name] * (factor if name.endswith(".W") else 1)), name


def test_parameter_counts():
    for hidden, expected in [([], 7850), ([512], 407_050), ([256, 64], 218_058), ([256, 128], 235_146)]:
        net = Network(mlp(hidden))
        assert net.parameter_count == expected == sum(a.size for a in net.parameters().values())
        assert f"{expected:,} parameters" in repr(net) and repr(net).count("Dense") == len(hidden) + 1


def test_the_columns_of_the_representation_do_not_touch():
    text = repr(Network(parse("conv 16 5, batchnorm, relu, dense 9")))
    assert "init='he')  W 16x5x1x5, b 16\n" in text and "eps=1e-05)  gamma 16, beta 16\n" in text


def test_a_layer_has_one_place_in_one_network():
    """It keeps what its `backward` needs, and its parameters are views of one network's memory."""
    relu, stack = ReLU(), mlp([8])
    with pytest.raises(ValueError, match="a layer is used twice"):
        Network([Dense(8), relu, Dense(8), relu, Dense(10)])
    Network(stack)
    with pytest.raises(ValueError, match="belong to another network"):
        Network(stack)
    for wrong in [], [Dense(10), ReLU], Dense(10):
        with pytest.raises(ValueError, match="layers must be a list of layers"):
            Network(wrong)


# --- training ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 7, 600, 1000])
def test_every_image_is_used_once_an_epoch(digits, batch_size, monkeypatch):
    (x, y), _ = digits
    net, seen = Network(mlp([])), []
    gather = net._gather
    monkeypatch.setattr(net, "_gather", lambda images, index: seen.append(index) or gather(images, index))
    list(net.fit(x, y, epochs=2, batch_size=batch_size, lr=1e-4))
    seen = np.concatenate(seen)
    assert sorted(seen[:600]) == sorted(seen[600:]) == list(range(600))
    assert (seen[:600] != seen[600:]).any() and (seen[:600] != np.arange(600)).any()


def test_shuffled_is_a_permutation_of_blocks_and_windows(monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 10)
    ((rows, order),) = module.shuffled(57, 57, np.random.default_rng(1))
    assert (rows == np.arange(57)).all() and (order == np.random.default_rng(1).permutation(57)).all()
    pairs = list(module.shuffled(1003, 200, np.random.default_rng(1)))
    assert all((np.diff(rows) > 0).all() for rows, _ in pairs), "read in the order of the file"
    windows, again = (
        [rows[order] for rows, order in module.shuffled(1003, 200, np.random.default_rng(1))] for _ in "ab"
    )
    assert [len(window) for window in windows] == [200] * 5 + [3]
    assert sorted(np.concatenate(windows)) == list(range(1003))
    assert all((a == b).all() for a, b in zip(windows, again, strict=True))
    for window in windows[:5]:
        assert len(set(window // 10)) <= 22, "few parts of the file"
        assert np.ptp(window) > 500 and (np.diff(window) == 1).mean() < 0.05, "from all of it, and mixed"
    rows, order = next(module.shuffled(1003, 200, np.random.default_rng(2)))
    assert (rows[order] != windows[0]).any()


@pytest.mark.parametrize(
    "settings",
    [{"epochs": 0}, {"batch_size": 0}, {"lr": -0.1}, {"lr": math.nan}, {"weight_decay": -1}, {"momentum": 1},
     {"label_smoothing": 1.5}],
)  # fmt: skip
def test_settings_that_cannot_be(digits, settings):
    with pytest.raises(ValueError, match=f"{next(iter(settings))}.* must|lr above 0"):
        next(Network(mlp([])).fit(*digits[0], **settings))


def test_the_teacher_sees_the_images_of_the_batch(digits):
    """After augmentation, with its own mean and std."""
    images, labels = digits[0][0][:50], digits[0][1][:50]
    teacher, net, twin = small_cnn(seed=5), small(), small()
    teacher.mean, teacher.std = 30.0, 70.0
    before = teacher.snapshot()
    settings = {"epochs": 1, "batch_size": 50, "lr": 0.1, "momentum": 0, "weight_decay": 0, "standardize": False}
    inverted = 255 - images
    list(net.fit(images, labels, augment=lambda x, rng, t: 255 - x, teacher=teacher, **settings))
    logits = twin.forward(twin.standardize(inverted), training=True)
    twin.loss.forward(logits, labels)
    twin.backward(distilled(twin.loss.backward(), logits, teacher.forward(teacher.standardize(inverted))))
    twin.update(0.1)
    assert flat(net) == pytest.approx(flat(twin), abs=1e-8)
    assert all((a == before[name]).all() for name, a in teacher.arrays().items())


@pytest.mark.parametrize(
    "net, settings, message",
    [(small(loss="mse"), {}, "both need the loss cross_entropy"),
     (small(), {"teacher": small(loss="mse")}, "both need the loss cross_entropy"),
     (twin := small(), {"teacher": twin}, "a teacher is another network"),
     (small(), {"label_smoothing": 0.1}, "label_smoothing = 0 and processes = 1"),
     (small(), {"processes": 2}, "label_smoothing = 0 and processes = 1"),
     (small(), {"teacher": Network([Dense(10)], input_shape=(9,))}, r"inputs and classes: \(9, 10\), not \(784, 10\)"),
     (Network([Dense(11)]), {}, r"inputs and classes: \(784, 10\), not \(784, 11\)")],
)  # fmt: skip
def test_teachers_that_cannot_be(digits, net, settings, message):
    with pytest.raises(ValueError, match=message):
        next(net.fit(*digits[0], **{"teacher": small()} | settings))


def test_a_resumed_training_augments_as_the_whole_one(digits):
    """The progress that `augment` is told is that of all epochs."""
    (x, y), _ = digits

    def progress(epochs):
        told = []
        for _ in module.epoch_windows(x, y, len(x), lambda images, rng, t: told.append(t) or images, 0, epochs):
            pass
        return told

    assert progress(range(4)) == [0, 0.25, 0.5, 0.75] and progress(range(2, 4)) == [0.5, 0.75]


def test_a_batch_may_be_larger_than_a_file(digits, image_file):
    list(small_cnn().fit(image_file[:20], digits[0][1][:20], batch_size=10**12, epochs=1))


@pytest.mark.parametrize("augment", [None, Distortion(5)])
def test_a_file_that_fits_into_a_window_is_trained_like_an_array(digits, image_file, augment):
    networks = []
    for images in digits[0][0], image_file:
        networks.append(small_cnn())
        records(networks[-1], ((images, digits[0][1]), digits[1]), augment=augment, epochs=1)
        list(networks[-1].fit(images, digits[0][1], augment=augment, epochs=1, lr=0.01))  # without validation
    assert (flat(networks[0]) == flat(networks[1])).all()
    for method in "predict", "predict_proba":
        assert (getattr(networks[0], method)(image_file) == getattr(networks[0], method)(digits[0][0])).all()


@pytest.mark.parametrize("augment", [None, Distortion(5)])
def test_a_large_file_is_trained_in_windows_and_resumed(digits, image_file, large, monkeypatch, augment):
    """Every image once an epoch, from parts of the file; stopped and resumed, it arrives at the same bits."""
    whole, seen = small(), []
    gather = whole._gather
    monkeypatch.setattr(whole, "_gather", lambda *batch: seen.append(gather(*batch).copy()) or seen[-1])
    settings = {"epochs": 3, "batch_size": 50, "lr": 0.05, "augment": augment}
    data = (image_file, digits[0][1]), digits[1]
    expected = records(whole, data, **settings)
    images = np.concatenate(seen).reshape(3, 600, 784)
    assert [len(batch) for batch in seen] == [50] * 36, "windows of 150 hold whole batches"
    assert len({image.tobytes() for image in images[0]}) > 590 and (images[0] != images[1]).any()
    if not augment:
        for epoch in images:
            assert sorted(image.tobytes() for image in epoch) == sorted(image.tobytes() for image in digits[0][0])
    first, second = small(), small(seed=9)
    history = [next(first.fit(*data[0], data[1], **settings))]
    second.restore(first.snapshot())
    second.velocity[:] = first.velocity.copy()
    history += records(second, data, **settings, history=history)
    assert (flat(second) == flat(whole)).all() and expected[-1]["validation_accuracy"] > 0.4
    assert [r["train_loss"] for r in history] == [r["train_loss"] for r in expected]


def test_what_is_made_ahead_may_fail(digits):
    def fail(images, rng, progress):
        raise OSError("no disk")

    with pytest.raises(OSError, match="no disk"):
        records(small(), digits, augment=fail)


def test_last_partial_batch_counts_by_its_size(digits):
    """With a vanishing lr the running loss and accuracy must equal those of the whole set."""
    (x, y), _ = digits
    net = Network(mlp([16]), dtype="float64")
    (record,) = net.fit(x[:599], y[:599], epochs=1, batch_size=250, lr=1e-12)
    scores = net.evaluate(x[:599], y[:599])
    assert record["train_loss"] == pytest.approx(scores["loss"], rel=1e-6)
    assert record["train_accuracy"] == scores["accuracy"]


def test_evaluation_does_not_depend_on_its_batches(digits, monkeypatch):
    (x, y), _ = digits
    net = Network(mlp([16]), dtype="float64")
    whole, p, k = net.evaluate(x, y), net.predict_proba(x), net.predict(x)
    monkeypatch.setattr(module, "EVAL_BATCH_SIZE", 77)
    assert net.evaluate(x, y)["loss"] == pytest.approx(whole["loss"])
    assert net.predict_proba(x) == pytest.approx(p) and (net.predict(x) == k).all()
    assert (p.argmax(axis=1) == k).all() and p.sum(axis=1) == pytest.approx(np.ones(600))
    assert whole["accuracy"] == (k == y).mean()


@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
def test_probabilities_are_those_of_the_labels_also_with_label_smoothing(loss, tmp_path):
    """The same image, labelled 3 in 80 of 100 cases and 5 in the others: the network must learn 0.8 and 0.2."""
    images, labels = np.full((100, 28, 28), 255, np.uint8), np.repeat([3, 5], [80, 20])
    net = Network(mlp([]), loss=loss)
    for _ in net.fit(images, labels, epochs=300, lr=0.001, weight_decay=0, label_smoothing=0.3, standardize=False):
        pass
    net.save(tmp_path / "m.npz")
    for each in net, Network.load(tmp_path / "m.npz"):
        p = each.predict_proba(images[:1])[0]
        assert (p[3], p[5]) == pytest.approx((0.8, 0.2), abs=0.01) and p.sum() == pytest.approx(1)


def test_input_statistics(digits):
    (x, y), _ = digits
    assert pixel_mean_std(x) == pytest.approx((x.mean(), x.std()))
    net = Network(mlp([4]), dtype="float64")
    list(net.fit(x, y, epochs=1))
    z = net.standardize(x)
    assert z.shape == (784, 600) and z.mean() == pytest.approx(0, abs=1e-9) and z.std() == pytest.approx(1)
    plain = Network(mlp([4]), dtype="float64")
    list(plain.fit(x, y, epochs=1, standardize=False))
    assert plain.standardize(x[[3, 1]]) == pytest.approx(x[[3, 1]].reshape(2, 784).T / 255)


def test_float32_stays_float32(digits):
    net = Network(mlp([8, 8]))
    records(net, digits, schedule="cosine", momentum=0.9, nesterov=True)
    arrays = [
        *net.memory.positions,
        net.layers[0].x,
        net.layers[1].y,
        net.loss.backward(),
        net.predict_proba(digits[0][0]),
    ]
    assert {a.dtype for a in arrays} == {np.dtype("float32")}


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules(name):
    factors = [SCHEDULES[name](t / 10) for t in range(11)]
    assert all(type(f) is float for f in factors) and factors[0] == 1
    assert all(0 <= b <= a for a, b in itertools.pairwise(factors))


def test_schedule_values():
    at = {name: [round(SCHEDULES[name](t), 6) for t in (0.5, 0.75, 1)] for name in SCHEDULES}
    assert at["constant"] == [1, 1, 1] and at["linear"] == [0.5, 0.25, 0] and at["step"] == [0.1, 0.01, 0.01]
    assert at["cosine"] == [0.5, 0.146447, 0] and at["exponential"] == [0.1, 0.031623, 0.01]
    assert at["inverse"] == [0.181818, 0.129032, 0.1]


def test_the_rate_follows_the_schedule_step_by_step(digits, monkeypatch):
    (x, y), _ = digits
    net, rates = Network(mlp([])), []
    original = net.update
    monkeypatch.setattr(net, "update", lambda lr, *rest: rates.append(lr) or original(lr, *rest))
    history = list(net.fit(x, y, epochs=2, batch_size=300, lr=0.1, schedule="linear"))
    assert rates == pytest.approx([0.1, 0.075, 0.05, 0.025]) and [r["lr"] for r in history] == pytest.approx(
        [0.1, 0.05]
    )


def test_plateau_halves_when_validation_accuracy_drops(digits, monkeypatch):
    net = Network(mlp([8]))
    accuracies = iter([0.5, 0.6, 0.55, 0.55, 0.5, 0.7])
    monkeypatch.setattr(net, "evaluate", lambda *_: {"loss": 1.0, "accuracy": next(accuracies)})
    history = records(net, digits, epochs=6, lr=0.08, schedule="plateau")
    assert [r["lr"] for r in history] == pytest.approx([0.08, 0.08, 0.08, 0.04, 0.04, 0.02])
    with pytest.raises(ValueError, match="validation"):
        next(net.fit(*digits[0], schedule="plateau"))


@pytest.mark.parametrize("activation", ["relu", "sigmoid", "tanh"])
@pytest.mark.parametrize("lr, batch_size", [(1e3, 50), (1e30, 50), (1e30, 1000), (1e38, 1000)])
def test_divergence_is_noticed(digits, lr, batch_size, activation):
    """Even if the last step of the first epoch diverged, with and without a validation set."""
    for validation in (None, digits[1]):
        net = Network(mlp([16], activation))
        with pytest.raises(DivergenceError, match="lower lr"):
            list(net.fit(*digits[0], validation, lr=lr, batch_size=batch_size, epochs=1))


def test_same_seed_same_weights(digits):
    def train(seed):
        net = Network(mlp([8]), seed=seed)
        records(net, digits, seed=seed)
        return flat(net)

    assert (train(3) == train(3)).all() and (train(3) != train(4)).any()


def test_each_seed_does_its_own(digits):
    """The network's seed draws the weights, that of `fit` the order, and nothing else."""

    def train(first, order):
        net = Network(mlp([8]), seed=first)
        start = flat(net)
        return start, records(net, digits, seed=order)[0]["train_loss"]

    (a, loss), (b, other_order), (c, other_start) = train(1, 1), train(1, 2), train(2, 1)
    assert (a == b).all() and (a != c).any() and loss != other_order and loss != other_start


def test_every_training_starts_with_zero_velocity(digits):
    first, second = Network(mlp([8])), Network(mlp([8]))
    second.velocity[:] = 3
    assert (second.velocity == 3).all()
    for net in (first, second):
        records(net, digits, epochs=1)
    assert (flat(first) == flat(second)).all()


def test_a_training_step_returns_the_loss_and_the_logits_from_before_the_update(digits):
    (x, y), _ = digits
    net, twin = small_cnn(), small_cnn()
    net.mean, net.std = twin.mean, twin.std = pixel_mean_std(x)
    expected = twin.forward(twin.standardize(x[:20]), training=True).copy()
    loss, logits = net.train_step(x[:20], y[:20], 0.05, momentum=0.9, weight_decay=0.01)
    assert (logits == expected).all() and loss == pytest.approx(twin.loss.forward(expected, y[:20]))
    twin.backward(twin.loss.backward())
    twin.update(0.05, momentum=0.9, weight_decay=0.01)
    assert (flat(net) == flat(twin)).all()
    losses = [net.train_step(x[:20], y[:20], 0.05)[0] for _ in range(30)]
    assert losses[-1] < 0.5 * losses[0], "it learns this batch"


def test_a_training_step_that_diverges_changes_nothing(digits):
    (x, y), _ = digits
    net = Network(mlp([4]))
    net.layers[0].params["W"][:] = np.nan
    before = net.velocity.copy()
    with pytest.raises(DivergenceError, match=r"learning rate of 0\.3: lower lr"):
        net.train_step(x[:5], y[:5], 0.3)
    assert (net.velocity == before).all()


def test_fit_does_nothing_before_it_is_iterated(digits):
    net = Network(mlp([4]))
    before = flat(net)
    net.fit(*digits[0])
    assert (flat(net) == before).all() and net.mean == 0


def test_the_defaults_of_fit_are_those_of_the_config():
    defaults = {name: p.default for name, p in inspect.signature(Network.fit).parameters.items()}
    settings = Config().fit_settings()
    assert settings == {name: defaults[name] for name in settings}


def test_a_second_training_measures_its_own_images(digits):
    net = Network(mlp([8]))
    records(net, digits, epochs=1)
    assert 20 < net.mean < 100
    records(net, digits, epochs=1, standardize=False)
    assert (net.mean, net.std) == (0, 255)
    assert pixel_mean_std(np.full((3, 28, 28), 7, np.uint8)) == (7, 1), "no division by zero"


def test_a_hard_batch_is_no_divergence(digits, monkeypatch):
    """Without validation images the last look is at one batch, which may be far worse than the mean of all."""
    (x, y), _ = digits
    net = Network(mlp([]), seed=1)
    monkeypatch.setattr(Network, "evaluate", lambda self, *_: {"loss": 2 * module.MAX_LOSS, "accuracy": 0})
    assert len(list(net.fit(x, y, epochs=1))) == 1
    with pytest.raises(DivergenceError):
        list(net.fit(x, y, (x, y), epochs=1))


def test_streams_are_separate():
    """Each purpose draws its own numbers, and a larger network does not change those of its first layer."""
    a, b = (module.spawn_rng(5, purpose).random(4) for purpose in (module.INITIALISATION, module.ORDER))
    assert (a != b).all()
    assert (Network(mlp([8]), seed=1).parameters()["0.W"] == Network(mlp([8, 4]), seed=1).parameters()["0.W"]).all()


@pytest.mark.parametrize("schedule", ["cosine", "plateau"])
@pytest.mark.parametrize("stop", [1, 2, 3])
def test_resumed_equals_uninterrupted(digits, schedule, stop):
    """Stop after any epoch, take weights, velocity and history to a new network, and arrive at the same bits."""
    (x, y), validation = digits
    settings = {"epochs": 4, "batch_size": 70, "lr": 0.05, "schedule": schedule}
    whole = Network(mlp([8]))
    expected = list(whole.fit(x, y, validation, **settings))
    first = Network(mlp([8]))
    history = list(itertools.islice(first.fit(x, y, validation, **settings), stop))
    second = Network(mlp([8]), seed=99)
    second.restore(first.snapshot())
    second.velocity[:] = first.velocity.copy()
    history += second.fit(x, y, validation, **settings, history=history)
    assert (flat(second) == flat(whole)).all()
    assert [{**r, "seconds": 0} for r in history] == [{**r, "seconds": 0} for r in expected]


def test_two_paused_trainings_do_not_disturb_each_other(digits):
    (x, y), validation = digits
    nets = [Network(mlp([8]), seed=s) for s in (1, 2)]
    for _ in zip(*(net.fit(x, y, validation, epochs=3, seed=s) for s, net in enumerate(nets, 1)), strict=True):
        pass
    for s, net in enumerate(nets, 1):
        alone = Network(mlp([8]), seed=s)
        list(alone.fit(x, y, validation, epochs=3, seed=s))
        assert (flat(net) == flat(alone)).all()


# --- what does not fit ------------------------------------------------------------------------------------------------


def test_errors_name_the_layer():
    with pytest.raises(ValueError, match=r"layer 1, Dense\(units=3.*vectors"):
        Network([ReLU(), Dense(3)], input_shape=(1, 28, 28))
    with pytest.raises(ValueError, match="loss must be one of"):
        Network(mlp([]), loss="hinge")


def test_wrong_images_are_refused(digits):
    x = digits[0][0]
    for images in (x / 255, x[:, :20], x.astype(np.int64)):
        with pytest.raises(ValueError, match="uint8"):
            Network(mlp([])).predict(images)
        with pytest.raises(ValueError, match="uint8"):
            next(Network(mlp([])).fit(images, digits[0][1]))


@pytest.mark.parametrize(
    "labels, message",
    [
        (np.zeros(600), "labels must be integers"),
        (np.zeros((600, 10), int), "labels must be integers"),
        (np.full(600, -1), "labels must lie in 0 to 9, not -1 to -1"),
        (np.full(600, 10), "labels must lie in 0 to 9, not 10 to 10"),
    ],
)
def test_wrong_labels_are_refused(digits, labels, message):
    for training, validation in (((digits[0][0], labels), None), (digits[0], (digits[0][0], labels))):
        with pytest.raises(ValueError, match=message):
            next(Network(mlp([])).fit(*training, validation))


def test_an_unknown_schedule_is_refused(digits):
    with pytest.raises(ValueError, match="schedule must be one of constant"):
        next(Network(mlp([])).fit(*digits[0], schedule="cos"))


def test_nothing_to_evaluate_is_an_error(digits):
    (x, y), _ = digits
    for training, validation in ((x[:0], y[:0]), None), ((x, y), (x[:0], y[:0])):
        with pytest.raises(ValueError, match="there are no images"):
            next(Network(mlp([])).fit(*training, validation))
    with pytest.raises(ValueError, match="there are no images"):
        Network(mlp([])).evaluate(x[:0], y[:0])
    with pytest.raises(ValueError, match="labels must lie in 0 to 9"):
        Network(mlp([])).evaluate(x, y - 10)


def test_metadata_with_numbers_as_keys(tmp_path):
    net = Network(mlp([]))
    net.metadata["scores"] = {2: 0.9, 10: 0.8}
    net.save(tmp_path / "a.npz")
    assert Network.load(tmp_path / "a.npz").metadata == {"scores": {"2": 0.9, "10": 0.8}}


# --- the file ---------------------------------------------------------------------------------------------------------


def test_save_and_load(digits, tmp_path):
    net = Network([Dense(6, "xavier"), Sigmoid(), Dense(10)], loss="mse", seed=3)
    records(net, digits, nesterov=True, batch_size=64, epochs=1)  # an odd number of steps, then an even one
    net.metadata = {"dataset": "tiny", "recipe": {"hidden": [6]}}
    net.save(tmp_path / "a.npz")
    again = Network.load(tmp_path / "a.npz")
    again.save(tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert repr(again) == repr(net) and again.metadata == net.metadata
    assert (again.predict_proba(digits[1][0]) == net.predict_proba(digits[1][0])).all()
    with np.load(tmp_path / "a.npz", allow_pickle=False) as plain:  # and anybody's NumPy reads it
        assert (plain["0.W"] == net.parameters()["0.W"]).all()


def test_images_may_be_rows_of_pixels(digits):
    x = digits[0][0]
    net = Network(mlp([4]))
    assert (net.predict(x.reshape(len(x), 784)) == net.predict(x)).all()
    with pytest.raises(ValueError, match="images must be uint8"):
        net.predict(x.ravel())


def test_outputs_that_are_too_large_are_an_error():
    """Weights that are finite, but whose sums are not: without warnings, and without probabilities of NaN."""
    images, labels = np.full((3, 28, 28), 255, np.uint8), np.zeros(3, int)
    for value in 3e38, 1e30:
        net = Network(mlp([4]))
        for a in net.parameters().values():
            a[:] = value
        for use in net.predict, net.predict_proba, lambda images: net.evaluate(images, labels):  # noqa: B023
            with pytest.raises(DivergenceError, match="too large"):
                use(images)


def test_fit_leaves_numpys_settings_alone(digits):
    (x, y), _ = digits
    before = np.getbufsize(), np.geterr()
    for _ in Network(mlp([8])).fit(x, y, epochs=2):
        assert (np.getbufsize(), np.geterr()) == before
    assert (np.getbufsize(), np.geterr()) == before
