"""Detectors with weights from a local folder: what is pinned is what looks, and it sees what its own library sees."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ViTForImageClassification, ViTModel

from fmn_guard.audit.detectors import load_detector
from fmn_guard.audit.detectors.local import read_preprocessing
from fmn_guard.errors import InputError, RefusedArtefact
from fmn_guard.instruments import ClassifierSpec, FacesSpec, ZeroShotSpec
from fmn_guard.record import bytes_digest, file_digest
from fmn_guard.shipped import shipped_model

from .standins import PREPROCESSOR, face_picture, save_vit, sface, yunet


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_vit(tmp_path_factory.mktemp("vit"))


def classifier(folder: Path, **changes: object) -> ClassifierSpec:
    fields = {
        "name": "image-classifier",
        "called": "second-opinion",
        "folder": str(folder),
        "weights": file_digest(folder / "model.safetensors"),
        "licence": "BSD-2-Clause",
        "classes": ("nsfw",),
    }
    return ClassifierSpec(**fields | changes)


def pictures(count: int, size: tuple[int, int] = (48, 64)) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, *size, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"resample": 3},
        {"size": {"shortest_edge": 36}, "do_center_crop": True, "crop_size": {"height": 32, "width": 32}},
        {"size": 40, "do_normalize": False},
        {"do_rescale": False},
    ],
    ids=str,
)
@pytest.mark.parametrize("size", [(48, 64), (64, 48), (32, 32)], ids=str)
def test_pictures_are_made_ready_as_the_library_does(
    changes: dict[str, object], size: tuple[int, int], tmp_path: Path
) -> None:
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    config = PREPROCESSOR | {"do_center_crop": False} | changes
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config), encoding="utf-8")
    del config["image_processor_type"]
    if isinstance(config["size"], int):
        config["size"] = {"height": config["size"], "width": config["size"]}
    [picture] = pictures(1, size)
    theirs = CLIPImageProcessorPil(**config)(Image.fromarray(picture), return_tensors="pt").pixel_values[0]
    ours = read_preprocessing(tmp_path)(picture)
    assert ours.shape == theirs.shape
    torch.testing.assert_close(ours, theirs.float(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "broken",
    [
        {"size": {"longest_edge": 32}},
        {"size": {"height": 32, "width": 10**9}},
        {"resample": 17},
        {"image_mean": [0.5]},
        {"image_std": "x"},
        {"size": None},
    ],
    ids=str,
)
def test_other_preprocessing_is_refused(broken: dict[str, object], tmp_path: Path) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR | broken), encoding="utf-8")
    with pytest.raises(RefusedArtefact, match="other-preprocessing"):
        read_preprocessing(tmp_path)


def test_classifier_scores_are_those_of_its_own_model(vit: Path) -> None:
    detector = load_detector(classifier(vit, classes=("nsfw", "normal")))
    model = ViTForImageClassification.from_pretrained(vit).eval()
    for picture in pictures(3, (32, 32)):
        with torch.no_grad():
            values = torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 127.5 - 1
            normal, nsfw = model(pixel_values=values).logits[0].softmax(0).tolist()
        seen = {s.label: s.score for s in detector.detect(picture)}
        assert seen == pytest.approx({"normal": normal, "nsfw": nsfw}, abs=2e-4)
        assert list(seen.values()) == sorted(seen.values(), reverse=True)


def test_classifier_of_several_classes_at_once_gives_a_sigmoid_each(tmp_path: Path) -> None:
    folder = save_vit(tmp_path / "vit", ("a", "b", "c"), problem_type="multi_label_classification")
    detector = load_detector(classifier(folder, classes=("a", "b", "c")))
    totals = [sum(s.score for s in detector.detect(picture)) for picture in pictures(3)]
    assert any(abs(total - 1) > 0.05 for total in totals)
    assert "sigmoid" in detector.instrument.direction


def test_instrument_says_all_that_a_report_needs(vit: Path) -> None:
    told = load_detector(classifier(vit)).instrument
    assert (told.name, told.licence, told.labels) == ("second-opinion", "BSD-2-Clause", ("nsfw",))
    assert told.weights_digest == file_digest(vit / "model.safetensors")
    assert told.direction == "higher is surer, softmax over 2 classes"
    assert told.preprocessing == "RGB; bilinear to 32x32; times 0.00392157, mean 0.5, 0.5, 0.5, std 0.5, 0.5, 0.5"
    assert "ViTForImageClassification" in told.version


def test_other_weights_and_unknown_classes_are_refused(vit: Path) -> None:
    with pytest.raises(RefusedArtefact, match="other-weights"):
        load_detector(classifier(vit, weights=bytes_digest(b"another")))
    with pytest.raises(RefusedArtefact, match="no-such-class"):
        load_detector(classifier(vit, classes=("NSFW",)))
    with pytest.raises(InputError, match="there is no folder"):
        load_detector(classifier(vit).model_copy(update={"folder": "nowhere"}))


def test_weights_without_a_head_are_refused_rather_than_filled_at_random(vit: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(vit, tmp_path / "headless"))
    config = (folder / "config.json").read_text(encoding="utf-8")
    ViTModel.from_pretrained(vit, add_pooling_layer=False).save_pretrained(folder)
    (folder / "config.json").write_text(config, encoding="utf-8")
    with pytest.raises(RefusedArtefact, match="not-filled"):
        load_detector(classifier(folder))


def test_folder_with_code_is_refused_before_anything_is_read(vit: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(vit, tmp_path / "code"))
    (folder / "modeling_own.py").write_text("raise SystemExit(0)", encoding="utf-8")
    with pytest.raises(RefusedArtefact, match="remote-code"):
        load_detector(classifier(folder))


# ---- CLIP


def zero_shot(**changes: object) -> ZeroShotSpec:
    folder = shipped_model("emoji-clip")
    fields = {
        "name": "clip-zero-shot",
        "called": "clip",
        "folder": str(folder),
        "weights": file_digest(folder / "model.safetensors"),
        "licence": "Apache-2.0",
        "classes": ("a photo of a lion",),
        "others": ("a photo of a rocket", "a photo of a castle"),
    }
    return ZeroShotSpec(**fields | changes)


def test_clip_chooses_the_text_that_names_the_picture() -> None:
    sheet = np.asarray(Image.open(shipped_model("emoji-sd") / "contact-sheet.png").convert("RGB"))
    lion = sheet[:64, :64]  # the first concept in the first style
    detector = load_detector(zero_shot())
    [seen] = detector.detect(lion)
    [instead] = load_detector(zero_shot(classes=("a photo of a rocket",), others=("a photo of a lion",))).detect(lion)
    assert seen.label == "a photo of a lion" and seen.score > 0.9
    assert instead.score < 0.1
    assert detector.instrument.direction == "higher is surer, softmax over these and 2 other texts"


def test_text_that_clip_would_cut_is_refused() -> None:
    with pytest.raises(InputError, match="tokens"):
        load_detector(zero_shot(classes=("a photo of a lion " * 10,)))


# ---- faces

RED, BLUE = (200, 0, 0), (0, 0, 200)


@pytest.fixture
def people(tmp_path: Path) -> FacesSpec:
    for name, colour in (("ada", RED), ("mira", BLUE)):
        (tmp_path / name).mkdir()
        Image.fromarray(face_picture(colour)).save(tmp_path / name / "1.png")
    (tmp_path / "yunet.onnx").write_bytes(yunet())
    (tmp_path / "sface.onnx").write_bytes(sface())
    return FacesSpec(
        name="faces",
        detector=str(tmp_path / "yunet.onnx"),
        detector_weights=bytes_digest(yunet()),
        recogniser=str(tmp_path / "sface.onnx"),
        recogniser_weights=bytes_digest(sface()),
        licence="MIT and Apache-2.0",
        people={"ada": str(tmp_path / "ada"), "mira": str(tmp_path / "mira")},
        found_from=0.9,
    )


def test_face_is_found_and_most_like_the_person_it_is_of(people: FacesSpec) -> None:
    detector = load_detector(people)
    seen = {s.label: s.score for s in detector.detect(face_picture(RED))}
    assert set(seen) == {"face", "ada", "mira"}
    assert seen["face"] == pytest.approx(1, abs=1e-3)
    assert seen["ada"] == pytest.approx(1, abs=1e-3)
    assert seen["mira"] < 0.9
    assert detector.instrument.labels == ("face", "ada", "mira")


def test_picture_without_a_face_has_no_sightings_and_one_with_two_has_both(people: FacesSpec) -> None:
    detector = load_detector(people)
    assert detector.detect(np.zeros((64, 64, 3), np.uint8)) == ()
    both = np.concatenate([face_picture(RED), face_picture(BLUE)])
    seen = detector.detect(both)
    assert [s.label for s in seen].count("face") == 2
    assert min(s.score for s in seen if s.label != "face") > 0.99


def test_other_network_and_reference_without_a_face_are_refused(people: FacesSpec, tmp_path: Path) -> None:
    with pytest.raises(RefusedArtefact, match="other-weights"):
        load_detector(people.model_copy(update={"recogniser_weights": bytes_digest(b"x")}))
    Image.new("RGB", (64, 64)).save(tmp_path / "mira" / "2.png")
    with pytest.raises(InputError, match="a reference picture of mira shows 0 faces"):
        load_detector(people)


def test_network_of_another_sort_is_an_error_with_a_name(people: FacesSpec, tmp_path: Path) -> None:
    (tmp_path / "yunet.onnx").write_bytes(sface())
    with pytest.raises((InputError, RuntimeError), match="networks"):
        load_detector(people.model_copy(update={"detector_weights": bytes_digest(sface())}))


def test_reference_pictures_are_part_of_the_digest(people: FacesSpec, tmp_path: Path) -> None:
    before = load_detector(people).instrument.weights_digest
    Image.fromarray(face_picture((0, 200, 0))).save(tmp_path / "mira" / "1.png")
    assert load_detector(people).instrument.weights_digest != before
