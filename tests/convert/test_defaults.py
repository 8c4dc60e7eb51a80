"""What a config leaves out: of every type, the same as transformers' own class says."""

from __future__ import annotations

import pytest
from transformers import CONFIG_MAPPING

from jstrace.convert.hf.config import described
from jstrace.convert.hf.registry import FAMILIES
from jstrace.convert.hf.wrappers import WRAPPERS
from jstrace.models import InputError

OTHERS = {"gemma4_text": {"hidden_size_per_layer_input": 0}, "glm4_moe": {"head_dim": 128}}
"""Of fields whose default is refused, the value that is read."""


@pytest.mark.parametrize("model_type", [name for name in FAMILIES if name in CONFIG_MAPPING])
def test_an_absent_field_is_the_default_of_transformers(model_type: str) -> None:
    fields = CONFIG_MAPPING[model_type]().to_dict() | {"model_type": model_type} | OTHERS.get(model_type, {})
    whole = described(fields, where="whole").config
    n_optional = 0
    for name in fields.keys() - {"model_type"}:
        rest = {other: value for other, value in fields.items() if other != name}
        try:
            without = described(rest, where="rest").config
        except InputError:  # a field that every file has
            continue
        n_optional += 1
        assert without == whole, f"{name} = {fields[name]!r}"
    assert n_optional > 10


READ = [name for name, one in WRAPPERS.items() if name in CONFIG_MAPPING and one.inner[0] in FAMILIES]


@pytest.mark.parametrize("model_type", READ)
def test_the_whole_alone_says_what_it_is(model_type: str) -> None:
    """Of what every config may say: beside a language model's own fields, which need not repeat it."""
    inner = WRAPPERS[model_type].inner[0]
    text = CONFIG_MAPPING[inner]().to_dict() | OTHERS.get(inner, {})
    fields = CONFIG_MAPPING[model_type](text_config=text).to_dict()
    fields |= {"model_type": model_type, "is_encoder_decoder": False, "add_cross_attention": False}
    fields["text_config"] = {
        name: value
        for name, value in fields["text_config"].items()
        if name not in ("is_encoder_decoder", "add_cross_attention")
    }
    assert described(fields, where="whole").config.n_layers == fields["text_config"]["num_hidden_layers"]
    with pytest.raises(InputError, match="is_encoder_decoder"):
        described(fields | {"is_encoder_decoder": True}, where="whole")
