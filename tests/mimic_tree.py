"""A made-up tree in the layout of MIMIC-CXR's releases, with every fault seen in practice."""

import gzip
import io
import random
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

LABELS = ["Atelectasis", "Edema", "No Finding", "Pleural Effusion"]
REPORT = (
    "                                 FINAL REPORT\n EXAMINATION:  CHEST (PA AND LAT)\n \n"
    " INDICATION:  ___ year old man with cough.\n \n FINDINGS: \n \n "
    "The lungs are clear at {}.\n \n"
    " IMPRESSION: \n \n No acute process.\n"
)


def picture(draw: random.Random, mode: str = "L") -> Image.Image:
    """A small grey ramp with a bright block somewhere."""
    pixels = np.tile(np.linspace(20, 200, 40, dtype=np.uint8), (48, 1))
    top, left = draw.randrange(40), draw.randrange(32)
    pixels[top : top + 8, left : left + 8] = 250
    return Image.fromarray(pixels).convert(mode)


def encoded(image: Image.Image, kind: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **({"quality": 95} if kind == "JPEG" else {}))
    return buffer.getvalue()


def png_that_declares(width: int, height: int) -> bytes:
    """A PNG whose header promises more pixels than its data hold."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")
    )


def dicom(pixels: np.ndarray, photometric: str = "MONOCHROME2", **elements) -> bytes:
    """A DICOM file of 16-bit `pixels`."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["x"])
    dataset = Dataset()
    dataset.file_meta = meta
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, photometric
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PixelRepresentation = 0
    dataset.PixelData = pixels.astype("<u2").tobytes()
    for name, value in elements.items():
        setattr(dataset, name, value)
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


DEEP = Image.fromarray(np.arange(1600, dtype=np.uint16).reshape(40, 40))
NO_TEXT = "report has no text under the policy 'both'"

# Fault of the image file -> (its bytes, the reason for its exclusion; "" if it can be read).
IMAGE_FAULTS = {
    "missing": (None, "image file is missing"),
    "empty": (b"", "image file is empty"),
    "truncated": (encoded(picture(random.Random(0)))[:-300], "image is truncated or damaged"),
    "text": (b"not an image", "file is not a JPEG, PNG or DICOM image"),
    "cmyk": (encoded(picture(random.Random(0)).convert("CMYK")), ""),
    "16 bit": (encoded(DEEP, "PNG"), ""),
    "one pixel": (encoded(Image.new("L", (1, 1))), "image is less than 8 pixels wide or high"),
    "black": (encoded(Image.new("L", (40, 40))), "image is of one grey only"),
    "huge": (png_that_declares(30000, 30000), "image declares more than 200,000,000 pixels"),
}  # fmt: skip
# Fault of the report -> (its bytes, the reason for its exclusion).
REPORT_FAULTS = {
    "no report": (None, "study has no report file"),
    "empty report": (b" \n", "report is empty"),
    "no section": (b" FINAL REPORT\n INDICATION:  Cough.\n", NO_TEXT),
    "cp1252": (" FINDINGS:  Temperature 39 °C – clear.\n".encode("cp1252"), ""),
}  # fmt: skip
# Fault of the tables -> the reason for the exclusion.
TABLE_FAULTS = {
    "lateral": "view 'LATERAL' is not frontal",
    "nan view": "view is unknown",
    "nan study": "metadata lacks dicom_id, study_id or subject_id",
    "dots": "an id is not made of letters, digits and hyphens",
    "quotes": "an id is not made of letters, digits and hyphens",
    "no split": "split 'none given' is none of train, validate, test",
    "two splits": "patient is in the split 'test' too",
    "duplicate": "pair id of an earlier row",
    "second": "another frontal image of the study is chosen",
}
FAULTS = [*IMAGE_FAULTS, *REPORT_FAULTS, *TABLE_FAULTS]


def write(root: Path, n: int, seed: int = 0, zipped: bool = True, suffix: str = ".jpg") -> dict:
    """Write about `n` images under `root`; half of the studies have one fault each.

    Returns reason ("" for kept) -> number of rows.
    """
    draw, rows, splits, labels, texts = random.Random(seed), [], [], [], {}
    expected: dict[str, int] = {}
    for i in range(n):
        fault = FAULTS[i // 2 % len(FAULTS)] if i % 2 else ""
        subject, study, image = str(10_000_000 + i), str(50_000_000 + i), f"{i:08x}-{seed:08x}"
        split = "test" if i % 10 == 0 else "validate" if i % 10 == 2 else "train"
        if fault == "two splits":  # with the test patient before
            subject, split = str(10_000_000 + i // 10 * 10), "train"
        if fault in ("dots", "quotes"):
            image = {"dots": "../../../etc/passwd", "quotes": "a 'b' \"c\""}[fault]
        row = {"dicom_id": image, "subject_id": subject, "study_id": study, "ViewPosition": "AP"}
        row["ViewPosition"] = {"lateral": "LATERAL", "nan view": "nan"}.get(fault, "AP")
        name = f"p{subject[:2]}/p{subject}/s{study}"
        content, reason = IMAGE_FAULTS.get(fault, (_image(draw, suffix), ""))
        if content is not None and fault not in ("dots", "quotes"):
            path = root / "files" / name / f"{image}{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            if fault == "second":
                path.with_name(f"z{image}{suffix}").write_bytes(content)
        text, missing = REPORT_FAULTS.get(fault, (REPORT.format(i).encode(), ""))
        if text is not None:
            texts[f"files/{name}.txt"] = text
        reason = reason or missing or TABLE_FAULTS.get(fault, "")
        rows.append(row | ({"study_id": "nan"} if fault == "nan study" else {}))
        splits += [] if fault == "no split" else [row | {"split": split}]
        if fault in ("duplicate", "second"):
            other = {"dicom_id": f"z{image}"} if fault == "second" else {}
            rows.append(row | other)
            splits.append(row | other | {"split": split})
            expected[""] = expected.get("", 0) + 1
        expected[reason] = expected.get(reason, 0) + 1
        marks = {label: draw.choice(["1.0", "0.0", "-1.0", ""]) for label in LABELS}
        labels.append({"subject_id": subject, "study_id": study} | marks)
    _tables(root, {"metadata": rows, "split": splits, "chexpert": labels})
    _reports(root, texts, zipped)
    return expected


def _image(draw: random.Random, suffix: str) -> bytes:
    image = picture(draw)
    return encoded(image) if suffix == ".jpg" else dicom(np.asarray(image).astype(np.uint16) * 16)


def _tables(root: Path, tables: dict[str, list[dict]]) -> None:
    for name, rows in tables.items():
        frame = pd.DataFrame(rows).drop(columns="ViewPosition", errors="ignore")
        frame = pd.DataFrame(rows) if name == "metadata" else frame
        with gzip.open(root / f"mimic-cxr-2.0.0-{name}.csv.gz", "wt") as file:
            frame.to_csv(file, index=False)


def _reports(root: Path, texts: dict[str, bytes], zipped: bool) -> None:
    if zipped:
        with zipfile.ZipFile(root / "mimic-cxr-reports.zip", "w") as archive:
            for name, text in texts.items():
                archive.writestr(name, text)
    else:
        for name, text in texts.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(text)
