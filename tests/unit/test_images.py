"""Folders of images: layouts, orders, attribute tables and splits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmark.errors import InputError
from datasets.features.images import ImageFolder, Table, find, make_split, read_table

SIZES = {"ant": 5, "bee": 5, "cow": 10, "dog": 1}
TABLE = 'class,legs,"wings, any"\nant,6,0\nbee,6,1\ncow,4,0\ndog,4,0.5\neel,1,0\n'
CLASSES = "class,split\nant,seen\nbee,validation\ncow,seen\ndog,unseen\n"


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    """Files of four classes, and a table and a split for them."""
    touch(tmp_path / "zoo", *(f"{name}/{i}.jpg" for name, n in SIZES.items() for i in range(n)), "ant/notes.txt")
    (tmp_path / "table.csv").write_text(TABLE)
    (tmp_path / "split.csv").write_text(CLASSES)
    return tmp_path / "zoo"


def made(zoo: Path, text: str):
    (zoo.parent / "split.csv").write_text(text)
    return make_split(find(zoo), read_table(zoo.parent / "table.csv"), zoo.parent / "split.csv")


def refusal(action, match: str) -> None:
    with pytest.raises(InputError, match=match) as caught:
        action()
    assert "\n" not in str(caught.value)


def test_cub_is_in_the_order_of_its_list(tmp_path: Path) -> None:
    touch(tmp_path, "images/001.A/x.jpg", "images/001.A/y.jpg", "images/002.B/z.jpg", "images/002.B/unlisted.jpg")
    (tmp_path / "images.txt").write_text("1 002.B/z.jpg\n2 001.A/y.jpg\n3 001.A/x.jpg\n")
    found = find(tmp_path)
    assert found == ImageFolder(tmp_path / "images", ("002.B/z.jpg", "001.A/y.jpg", "001.A/x.jpg"))
    assert found.classes == ("002.B", "001.A", "001.A")
    (tmp_path / "images" / "001.A" / "y.jpg").unlink()
    refusal(lambda: find(tmp_path), r"the 3 images of .*images.txt, lacks 1 of them, the first is 001.A/y.jpg")


def test_awa_and_sun(tmp_path: Path) -> None:
    touch(tmp_path / "awa", "JPEGImages/zebra/2.JPG", "JPEGImages/killer+whale/1.jpg", "classes.txt")
    assert find(tmp_path / "awa").classes == ("killer+whale", "zebra")
    touch(tmp_path / "sun", "images/a/abbey/1.jpg", "images/a/apse/outdoor/2.jpg", "images/z/zoo/3.jpg")
    assert find(tmp_path / "sun").classes == ("abbey", "apse_outdoor", "zoo")


def test_the_order_of_a_release(tmp_path: Path) -> None:
    """Paths there begin with folders of another machine."""
    folder = ImageFolder(tmp_path, ("a/1.jpg", "b/1.jpg"))
    assert folder.in_order_of(["/else/where//b/1.jpg", "C:\\x\\a\\1.jpg"], "f").files == ("b/1.jpg", "a/1.jpg")
    refusal(lambda: folder.in_order_of(["/x/c/1.jpg"], "f"), "lacks 1 of them, the first is /x/c/1.jpg")


def test_wrong_folders(tmp_path: Path) -> None:
    refusal(lambda: find(tmp_path / "no"), "must be a folder that exists")
    refusal(lambda: find(tmp_path), "must hold images .* got none")
    touch(tmp_path, "a/1.jpg", "2.jpg")
    refusal(lambda: find(tmp_path), "got 2.jpg in no class folder")


def test_table(zoo: Path) -> None:
    table = read_table(zoo.parent / "table.csv")
    assert table.attributes == ("legs", "wings, any")
    assert table.classes == ("ant", "bee", "cow", "dog", "eel")
    assert table.values.tolist() == [[6, 0], [6, 1], [4, 0], [4, 0.5], [1, 0]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must be a CSV file with a header"),
        ("name,legs\nant,6", "must be a table class,<attribute>,..."),
        ("class,legs\nant", "line 2 must have 2 fields, got 1"),
        ("class,legs\nant,six", "line 2: legs must be a finite number, got 'six'"),
        ("class,legs\nant,inf", "line 2: legs must be a finite number, got 'inf'"),
        ("class,legs\nant,6\nant,5", "must name each class and attribute once, got 'ant'"),
        ("class,legs\nant,0", "must describe every class, got only zeros for 'ant'"),
    ],
)
def test_bad_tables(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "table.csv").write_text(text)
    refusal(lambda: read_table(tmp_path / "table.csv"), message)


def test_a_split_of_classes(zoo: Path) -> None:
    result = made(zoo, CLASSES)
    assert result.class_names == ("ant", "bee", "cow", "dog")
    assert result.attributes.tolist() == [[6, 0], [6, 1], [4, 0], [4, 0.5]]
    assert np.bincount(result.labels).tolist() == list(SIZES.values())
    assert np.bincount(result.labels[result.test_seen], minlength=4).tolist() == [1, 1, 2, 0]  # a fifth of each
    assert np.bincount(result.labels[result.test_unseen], minlength=4).tolist() == [0, 0, 0, 1]
    assert len(result.trainval) == 16
    assert result.validation_classes is not None
    assert result.validation_classes.tolist() == [1]


def test_the_hold_out_of_a_class_depends_on_it_alone(zoo: Path) -> None:
    before, held_out = made(zoo, CLASSES), find(zoo).files
    cows = {held_out[i] for i in before.test_seen if before.labels[i] == 2}
    (zoo / "ant" / "4.jpg").unlink()
    after, files = made(zoo, CLASSES), find(zoo).files
    assert {files[i] for i in after.test_seen if after.labels[i] == 2} == cows


def test_a_split_of_images(zoo: Path) -> None:
    files = find(zoo).files
    part = {name: "test_unseen" if name.startswith("dog") else "trainval" for name in files} | {
        "ant/3.jpg": "test_seen",
        "cow/7.jpg": "test_seen",
    }
    result = made(zoo, "image,split\n" + "".join(f"{name},{value}\n" for name, value in part.items()))
    assert [files[i] for i in result.test_seen] == ["ant/3.jpg", "cow/7.jpg"]
    assert [files[i] for i in result.test_unseen] == ["dog/0.jpg"]
    assert len(result.trainval) == len(files) - 3
    assert result.validation_classes is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("who,what\nant,seen", "must begin with class,split or image,split, got who,what instead"),
        (CLASSES.replace("unseen", "test"), "line 5 must end in seen, unseen, validation, got 'dog,test'"),
        (CLASSES.replace("cow,seen\n", ""), "must have all of 4, lacks 1, the first is 'cow'"),
        (CLASSES.replace("cow", "cwo"), "line 4: no images of 'cwo'; did you mean 'cow'"),
        (CLASSES + "ant,unseen\n", "line 6: 'ant' was seen before, is unseen here"),
        (CLASSES.replace("dog,unseen", "dog,seen"), "test_unseen_loc must not be empty"),
        ("image,split\nant/0.jpg,trainval", "must have all of 21, lacks 20"),
    ],
)
def test_bad_splits(zoo: Path, text: str, message: str) -> None:
    refusal(lambda: made(zoo, text), message)


def test_a_folder_that_the_table_lacks(zoo: Path) -> None:
    table = Table(("ant", "bee", "cows"), ("legs",), np.ones((3, 1), np.float32))
    refusal(lambda: make_split(find(zoo), table, zoo.parent / "split.csv"), "no class 'cow'; did you mean 'cows'")
