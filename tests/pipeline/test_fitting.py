"""Learned scorers: what they find in tiny models, on disk, and through every door."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

import jstrace
from jstrace.method.scores import linear as method
from jstrace.method.scores.gradients import Pass
from jstrace.method.scores.learned import Scorer
from jstrace.method.scores.linear import Coefficients
from jstrace.models import Decoder, InputError, Model, make_mesh, param_shardings
from jstrace.pipeline import course, fitting, scorers
from jstrace.pipeline.reference import built_in_reference
from tests.conftest import TINY, family_config, tiny_params
from tests.stand_ins import Letters

ROWS = [np.random.default_rng(seed).integers(0, 97, 7 + seed % 4) for seed in range(8)]
TESTED = [np.random.default_rng(100 + seed).integers(0, 97, 10) for seed in range(3)]

MEANS: dict[str, Any] = {"replace": "mean", "reference": ROWS}


def planted(seed: int) -> Model:
    """A model one of whose key/value heads carries the same large value from every token.

    Its shares are large, but under means it may go: what is left of the graph is the sub-graph that is needed.
    """
    config = family_config("qwen2")
    params = tiny_params(config, seed)
    layers = params["layers"]
    layers["v"] = layers["v"].at[1, :, 0].set(0.0)
    layers["v_bias"] = layers["v_bias"].at[1, 0].set(3.0)
    return Model(Decoder(config, params), Letters())


def mean_tv(model: Model, score: Any) -> float:
    sizes = (0.05, 0.1, 0.2, 0.4)
    traces = jstrace.trace(model, TESTED, score=score, sizes=sizes, order="score", **MEANS)
    found = jstrace.evaluate(model, traces, reference=ROWS)
    return float(np.mean([one.tv[1:-1] for one in found]))


def start_of(model: Model, features: str) -> Scorer:
    return Scorer(method.initial(model.config, features, 10), features)


@pytest.mark.parametrize("seed", [0, 1])
def test_finds_the_planted_sub_graph(seed: int) -> None:
    model = planted(seed)
    options: dict[str, Any] = {"features": "activations", "replace": "mean", "reference": ROWS, "steps": 150}
    scorer = jstrace.train_scorer(model, ROWS, **options)
    before, after = start_of(model, "activations"), scorer
    head = np.asarray(after.coefficients.head)
    others = np.concatenate([head[[0, 2]].ravel(), head[1, 2:]])
    assert head[1, :2].max() < others.mean() - 0.4, "both query heads of the one that carries nothing"
    assert mean_tv(model, after) < 0.85 * mean_tv(model, before)


def test_seeds_reproduce_and_steps_teach() -> None:
    model, losses = planted(2), []
    options: dict[str, Any] = {"features": "gradient", "reference": ROWS, "steps": 6, "batch": 3}
    one, same, other = (jstrace.train_scorer(model, ROWS, seed=seed, **options) for seed in (1, 1, 2))
    assert one == same
    assert one != other
    jstrace.train_scorer(model, ROWS, **options, progress=lambda *told: losses.append(told))
    assert losses[:8] == [(n, 8, None) for n in range(1, 9)]
    assert [told[:2] for told in losses[8:]] == [(n, 6) for n in range(1, 7)]
    assert all(np.isfinite(told[2]) for told in losses[8:])


@pytest.mark.parametrize(
    ("family", "features"),
    [
        *((family, "activations") for family in ("llama", "gpt2", "gpt_neox", "gemma2")),
        *((family, "gradient") for family in ("gpt_neox", "gemma2")),
    ],
)
def test_padding_and_batches_change_nothing(features: str, family: str) -> None:
    config = family_config(family)
    model = Model(Decoder(config, tiny_params(config)), Letters())
    rng = np.random.default_rng(3)
    drawn = jax.tree.map(
        lambda array: jnp.asarray(rng.normal(size=array.shape), jnp.float32), method.initial(config, features, 10)
    )
    scorer = Scorer(drawn, features)
    short, long = np.arange(5), np.arange(20, 33)
    alone = jstrace.trace(model, short, score=scorer, **MEANS)
    together = jstrace.trace(model, [short, long], score=scorer, **MEANS)[0]
    exact = Pass(model.decoder, jnp.asarray(short), 5, jstrace.mean_replacement(model, ROWS).bare())

    def flat(tree: Any) -> np.ndarray:
        return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])

    edges = flat(alone.scores) >= 0
    for found in (jax.jit(lambda: scorer.edge_scores(exact))(), together.scores):
        close = np.isclose(flat(found)[edges], flat(alone.scores)[edges], rtol=1e-2)
        assert close.all()


def test_padding_changes_no_feature_of_rounds() -> None:
    """Before the first cut at which an edge changes places for the last bit of a gradient."""
    model = planted(0)
    means = jstrace.mean_replacement(model, ROWS).bare()
    found = []
    for width in (5, 8):
        one = Pass(model.decoder, jnp.asarray(np.resize(np.arange(5), width)), 5, means)
        features = jax.jit(lambda one=one: method.features_of(one, "rounds")[0])()
        found.append([np.asarray(each.residual_mlp)[:, :5] for each in features])
    for index in (1, 2, 3):  # the share, the gradient at the full mask and that at the second cut
        np.testing.assert_allclose(found[0][index], found[1][index], atol=0.05)
    order = [np.argsort(each[0].ravel()) for each in found]
    assert np.mean(order[0] == order[1]) > 0.5


def test_on_a_mesh(tiny: Model) -> None:
    drawn = np.random.default_rng(4)
    start = start_of(tiny, "gradient").coefficients
    # As large as fitted ones: they multiply the error of the logarithm of a gradient whose terms cancel, and a sum over
    # two devices is another sum. Ones of three and more make it 0.002 on processors without AVX512.
    scorer = Scorer(jax.tree.map(lambda x: 0.4 * drawn.normal(size=x.shape).astype(np.float32), start), "gradient")
    mesh = make_mesh(data=2, model=2)
    params = jax.device_put(tiny_params(), param_shardings(TINY, mesh))
    placed = Model(Decoder(TINY, params), Letters())
    one, two = (jstrace.trace(model, TESTED, score=scorer, **MEANS) for model in (tiny, placed))
    for a, b in zip(one, two, strict=True):
        np.testing.assert_allclose(a.scores.attn, b.scores.attn, rtol=1e-3, atol=1e-6)


def test_the_biases_are_where_they_belong() -> None:
    """One number at a time moves the logits of those edges alone that it names."""
    model = planted(0)
    one = Pass(model.decoder, jnp.arange(16), 6, None)
    features, _ = method.features_of(one, "activations")
    start = method.initial(model.config, "activations", 6)
    base = method.logits(start, features, one)

    def moved(name: str, at: tuple[int, ...]) -> dict[str, np.ndarray]:
        array = np.array(getattr(start, name))
        array[at] += 1
        found = method.logits(dataclasses.replace(start, **{name: array}), features, one)
        return {kind: np.argwhere(np.asarray(leaf != getattr(base, kind))) for kind, leaf in found.items()}

    found = moved("head", (1, 2))
    assert set(map(tuple, found["attn"][:, :2])) == {(1, 2)}
    assert not any(len(found[kind]) for kind in ("residual_attn", "residual_mlp", "mlp"))
    found = moved("lag", (0, 3, 1))
    assert {(i - j) for _, _, i, j in found["attn"] if i < 6} == {1, 2}
    assert {j for *_, j in moved("first", (0, 0))["attn"]} == {0}
    assert {j for *_, j in moved("source", (0,))["attn"] if j < 6} == {5}
    assert {i for _, _, i, _ in moved("target", (1,))["attn"] if i < 6} == {3, 4}
    found = moved("node", (2, 1, 0))
    assert set(map(tuple, found["mlp"][found["mlp"][:, 1] < 6])) == {(1, 5)}
    assert not len(found["residual_mlp"])


def test_on_disk(tmp_path: Path, tiny: Model) -> None:
    path = tmp_path / "scorer.safetensors"
    scorer = jstrace.train_scorer(tiny, ROWS, features="gradient", reference=ROWS, steps=2)
    scorer.save(path)
    read = Scorer.load(path)
    assert read == scorer
    assert hash(read) == hash(scorer)
    assert read.model_fingerprints[0] == tiny.fingerprint()
    traces = [jstrace.trace(tiny, TESTED[0], score=one, **MEANS) for one in (scorer, read)]
    np.testing.assert_array_equal(traces[0].scores.attn, traces[1].scores.attn)
    assert traces[1].score == "scorer"
    half = Model(Decoder(TINY, jax.tree.map(lambda leaf: leaf.astype("bfloat16"), tiny_params())), Letters())
    jstrace.trace(half, TESTED[0], score=read, **MEANS)


def test_scorers_of_ones_own_are_checked(tiny: Model) -> None:
    good = start_of(tiny, "gradient")
    for change, message in (
        ({"features": "flow"}, "scorer of features 'flow'"),
        ({"features": "activations"}, "do not fit together"),
        ({"name": "a b"}, "scorer called 'a b'"),
        ({"coefficients": dataclasses.replace(good.coefficients, head=np.full((3, 4), np.nan, np.float32))}, "finite"),
    ):
        with pytest.raises(InputError, match=message):
            dataclasses.replace(good, **change)
    with pytest.raises(InputError, match="'l1' of your own needs another name"):
        jstrace.trace(tiny, TESTED[0], score=dataclasses.replace(good, name="l1"))


def test_precisions_of_one_model(tiny: Model) -> None:
    """Fitted in half precision it serves the full one, and the other way round; other weights it does not."""
    half = Model(Decoder(TINY, jax.tree.map(lambda leaf: leaf.astype("bfloat16"), tiny_params())), Letters())
    scorer = jstrace.train_scorer(half, ROWS, features="activations", reference=ROWS, steps=1)
    scorer.check_fits(tiny)
    with pytest.raises(InputError, match="fitted to model"):
        scorer.check_fits(Model(Decoder(TINY, tiny_params(seed=5))))


def test_what_is_not_finite_is_refused(tiny: Model) -> None:
    params = tiny_params()
    params["embed"] = params["embed"].at[96].set(jnp.nan)
    broken, good = Model(Decoder(TINY, params), Letters()), [row % 90 for row in ROWS]
    with pytest.raises(InputError, match="text 8: its forward pass or its features are not finite"):
        jstrace.train_scorer(broken, [*good, np.asarray([3, 96, 4])], features="activations", reference=good, steps=1)


def test_other_places_are_other_texts() -> None:
    rows = [np.full(6, index) for index in range(5)]
    longer = dataclasses.replace(course.COURSES["gradient"], steps=50)
    for texts, draw in course.draws(rows, 8, ["mean", "resample"], longer, 2, np.random.default_rng(0)):
        for text, others in zip(texts, draw.others, strict=True):
            assert text not in others
        assert ((draw.sizes >= 0.029) & (draw.sizes <= 0.4)).all()


def test_other_models_are_refused(tiny: Model) -> None:
    other = Model(Decoder(TINY, tiny_params(seed=5)), Letters())
    fitted = jstrace.train_scorer(tiny, ROWS, features="activations", reference=ROWS, steps=1)
    with pytest.raises(InputError, match="fitted to model"):
        jstrace.trace(other, TESTED[0], score=fitted)
    deeper = dataclasses.replace(TINY, n_layers=4)
    with pytest.raises(InputError, match="another model's"):
        start_of(Model(Decoder(deeper, tiny_params(deeper))), "gradient").check_fits(tiny)
    with pytest.raises(InputError, match="fit one to this model"):
        jstrace.trace(other, TESTED[0], score="learned")
    shared = jstrace.train_scorer(tiny, ROWS, features="activations", reference=ROWS, steps=1, shared=True)
    jstrace.trace(other, TESTED[0], score=shared)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"features": "flow"}, "features = 'flow'"),
        ({"replace": "noise"}, "replace = 'noise'"),
        ({"replace": ()}, r"replace = \(\)"),
        ({"steps": 0}, "steps = 0"),
        ({"batch": True}, "batch = True"),
        ({"seed": -1}, "seed = -1"),
        ({"texts": ROWS[:3]}, "3 texts: a scorer is fitted to a list of at least 4"),
        ({"texts": "one text"}, "one text: a scorer"),
        ({"texts": [*ROWS[:4], []]}, "text 4: no tokens"),
        ({"reference": []}, "the reference is empty"),
    ],
)
def test_bad_arguments(tiny: Model, options: dict[str, Any], message: str) -> None:
    given = {"texts": ROWS, "reference": ROWS} | options
    with pytest.raises(InputError, match=message):
        jstrace.train_scorer(tiny, given.pop("texts"), **given)


def damaged(name: str, change: Any) -> dict[str, np.ndarray]:
    arrays = {key: np.array(array) for key, array in method.initial(TINY, "gradient", 9).arrays().items()}
    arrays[name] = change(arrays[name])
    return arrays


HEADER = {"format": "jstrace-scorer", "version": "1", "features": "gradient", "name": "a", "reads": "gradient"}


@pytest.mark.parametrize(
    ("arrays", "header", "message"),
    [
        (damaged("head", lambda x: x * np.nan), HEADER, "not finite"),
        (damaged("head", lambda x: x[:, :1]), HEADER, "do not fit together"),
        (damaged("source", lambda x: x[:-1]), HEADER, "do not fit together"),
        (damaged("lag", lambda x: x.astype(np.float64)), HEADER, "not finite float32"),
        ({"head": np.zeros((1, 1), np.float32)}, HEADER, "damaged"),
        (damaged("head", lambda x: x), HEADER | {"features": "rounds"}, "another version of jstrace"),
        (
            damaged("head", lambda x: x),
            HEADER | {"features": "activations", "reads": "activations"},
            "do not fit together",
        ),
        (damaged("head", lambda x: x), HEADER | {"features": "x"}, "damaged"),
        (damaged("head", lambda x: x), HEADER | {"name": "a b"}, "damaged"),
        (damaged("head", lambda x: x), HEADER | {"version": "9"}, "version '9'"),
        (damaged("head", lambda x: x), {"format": "pt"}, "not a scorer"),
    ],
)
def test_damaged_files(tmp_path: Path, arrays: Any, header: dict[str, str], message: str) -> None:
    path = tmp_path / "x.safetensors"
    safetensors.numpy.save_file(arrays, path, header)
    with pytest.raises(InputError, match=message):
        Scorer.load(path)


def test_files_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"no such thing")
    for name in ("a.safetensors", "missing.safetensors", "."):
        with pytest.raises(InputError, match="no readable scorer"):
            Scorer.load(tmp_path / name)


def test_the_built_in_one(real: Model) -> None:
    """It reads, fits the default model in every dtype, and keeps more of a passage than what it started as."""
    scorer = scorers.built_in()
    scorer.check_fits(real)
    assert isinstance(scorer.coefficients, Coefficients)
    assert len(scorer.model_fingerprints) == len(fitting._DTYPES)
    text = "The bridge was closed in the spring after engineers had found cracks in two of its"
    sizes, names = (0.04, 0.06, 0.08, 0.1, 0.2), ("learned", "l1*gradient")
    means: dict[str, Any] = {"replace": "mean", "reference": built_in_reference()[:8]}
    traces = {name: jstrace.trace(real, text, score=name, sizes=sizes, **means) for name in names}
    assert traces["learned"].score == "learned"
    tv = {name: jstrace.evaluate(real, one, **means).tv[:-1].mean() for name, one in traces.items()}
    assert tv["learned"] < 0.7 * tv["l1*gradient"]
