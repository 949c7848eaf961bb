"""The sentence encoder against BERT written out word by word, as in Devlin et al., arXiv 1810.04805."""

import math
import zipfile
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmark.errors import InputError
from datasets.features.minilm import encode
from tests.reference.fake_packages import BERT, WORDS, bert_weights, write_encoder

Floats = NDArray[np.float64]
STATE = {name: tensor.double().numpy() for name, tensor in bert_weights().items()}


def dense(x: Floats, name: str) -> Floats:
    return x @ STATE[f"{name}.weight"].T + STATE[f"{name}.bias"]


def layer_norm(x: Floats, name: str) -> Floats:
    return (x - x.mean()) / math.sqrt(x.var() + 1e-12) * STATE[f"{name}.weight"] + STATE[f"{name}.bias"]


def layer(rows: list[Floats], name: str) -> list[Floats]:
    heads, width = int(BERT["num_attention_heads"]), int(BERT["hidden_size"]) // int(BERT["num_attention_heads"])
    query, key, value = (
        [dense(row, f"{name}.attention.self.{part}") for row in rows] for part in ("query", "key", "value")
    )
    done = []
    for i, row in enumerate(rows):
        context = np.zeros(heads * width)
        for head in range(heads):
            part = slice(head * width, (head + 1) * width)
            weights = [math.exp(query[i][part] @ key[j][part] / math.sqrt(width)) for j in range(len(rows))]
            for j, weight in enumerate(weights):
                context[part] += weight / sum(weights) * value[j][part]
        attended = layer_norm(
            row + dense(context, f"{name}.attention.output.dense"), f"{name}.attention.output.LayerNorm"
        )
        inner = dense(attended, f"{name}.intermediate.dense")
        gelu = np.array([x * 0.5 * (1 + math.erf(x / math.sqrt(2))) for x in inner])
        done.append(layer_norm(attended + dense(gelu, f"{name}.output.dense"), f"{name}.output.LayerNorm"))
    return done


def slow(text: str) -> Floats:
    tokens = ["[CLS]", *[letter if letter in WORDS else "[UNK]" for letter in text][:30], "[SEP]"]
    embeddings = "embeddings.{}_embeddings.weight"
    rows = [
        layer_norm(
            STATE[embeddings.format("word")][WORDS.index(token)]
            + STATE[embeddings.format("position")][position]
            + STATE[embeddings.format("token_type")][0],
            "embeddings.LayerNorm",
        )
        for position, token in enumerate(tokens)
    ]
    for k in range(int(BERT["num_hidden_layers"])):
        rows = layer(rows, f"encoder.layer.{k}")
    mean = sum(rows) / len(rows)
    return np.asarray(mean / np.linalg.norm(mean))


def test_vectors_are_those_of_bert_written_out(tmp_path: Path) -> None:
    write_encoder(tmp_path / "wheel.whl")
    texts = ["zebra", "a", "quite a long text that is cut off after so many letters", ""]
    vectors = encode(texts, tmp_path / "wheel.whl")
    np.testing.assert_allclose(vectors, [slow(text) for text in texts], atol=2e-6)
    assert vectors.dtype == np.float32


def test_a_vector_does_not_depend_on_other_texts(tmp_path: Path) -> None:
    write_encoder(tmp_path / "wheel.whl")
    both, alone = encode(["horse", "a longer text"], tmp_path / "wheel.whl"), encode(["horse"], tmp_path / "wheel.whl")
    np.testing.assert_array_equal(both[0], alone[0])


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.whl: holds no MiniLM model that can be read: FileNotFoundError"):
        encode(["a"], tmp_path / "none.whl")
    (tmp_path / "text.whl").write_text("no archive")
    with pytest.raises(InputError, match=r"text\.whl: holds no MiniLM model that can be read: BadZipFile"):
        encode(["a"], tmp_path / "text.whl")
    with zipfile.ZipFile(tmp_path / "empty.whl", "w"):
        pass
    with pytest.raises(InputError, match=r"empty\.whl: holds no MiniLM model that can be read: KeyError"):
        encode(["a"], tmp_path / "empty.whl")
