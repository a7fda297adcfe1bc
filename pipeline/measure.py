"""How good: average precision after VOC and COCO, proposal recall, errors by stage, paired bootstrap.

VOC's 11-point AP, VOC's area AP and COCO's AP at IoU 0.5 are three numbers; each is named wherever it is
given. All are of boxes, and of masks too where detections and objects have them: then the overlap is that of masks.
Objects that VOC calls difficult, and those that COCO calls crowd, are neither hits nor misses, under all measures.
"""

from __future__ import annotations

import contextlib
import io
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

from ..errors import UserError
from ..stages.boxes import area, overlap
from ..stages.datasets.problem import Problem
from ..stages.masks import RLE, area_of, box_of, rle_of
from ..stages.masks import overlap as mask_overlap
from ..stages.record import Record, Records
from .wrap import host

VOC_METRICS = ("area", "11pt")
COCO_IOUS = tuple(0.5 + 0.05 * i for i in range(10))  # over which COCO's AP is a mean
FIRST = 3  # sentences on what was left out that a result holds
# MATLAB's 0:0.1:1, to the bit (it counts from both ends): a recall of exactly 0.3 does not reach 3 * 0.1
ELEVEN = np.concatenate([0.1 * np.arange(5), [0.5], 1 - 0.1 * np.arange(4, -1, -1)])


class Detections(NamedTuple):
    """What was found in one image: boxes D 4 (or in their place masks, D RLEs), scores D, labels D in 1..K."""

    boxes: Any
    scores: Any
    labels: Any


class Truth(NamedTuple):
    """What is in one image: boxes T 4 (or masks, T RLEs), labels T, ignored T (difficult or crowd), areas T, pixels."""

    boxes: Any
    labels: Any
    ignored: Any
    areas: Any


Results = Mapping[str, Detections]  # image id -> what was found
Truths = Mapping[str, Truth]  # image id -> what is there


T = TypeVar("T")


def read_results(records: Iterable[Record]) -> dict[str, Detections]:
    """The `det_*` fields of records. UserError if two have one id."""
    return _by_id((record.id, _detections(record)) for record in records)


def read_truths(records: Iterable[Record]) -> dict[str, Truth]:
    """The `truth_*` fields of records; `truth_difficult`, `truth_crowd` and `truth_areas` where present.

    UserError if two have one id.
    """
    return _by_id((record.id, _truth(record)) for record in records)


def _by_id(pairs: Iterable[tuple[str, T]]) -> dict[str, T]:
    found: dict[str, T] = {}
    for id, value in pairs:
        if id in found:
            raise UserError(f"two images of the data set have the id {id!r}")
        found[id] = value
    return found


def _detections(record: Record) -> Detections:
    return Detections(*(host(record[f"det_{name}"]) for name in Detections._fields))


def _detected_masks(record: Record) -> Detections:
    """The detections of a record with their masks, pasted into the image one by one, in the place of boxes."""
    found = _detections(record)
    height, width = (int(side) for side in host(record["size"]))
    grids = host(record["det_masks"])
    return found._replace(boxes=_rles([rle_of(m, b, height, width) for m, b in zip(grids, found.boxes)]))


def _rles(masks: Sequence[RLE]) -> Any:
    """RLEs as an array, that can be indexed as boxes are."""
    made = np.empty(len(masks), object)
    made[:] = masks
    return made


def read_mask_truths(records: Iterable[Record]) -> dict[str, Truth] | None:
    """The truth of records with their masks in the place of boxes; None if an image has none of its own."""
    found = {}
    for record in records:
        if "truth_masks" not in record:
            return None
        masks = record["truth_masks"]
        found[record.id] = _truth(record)._replace(boxes=_rles(masks))
        if "truth_areas" not in record:
            areas = np.array([area_of(mask) for mask in masks], np.float64)
            found[record.id] = found[record.id]._replace(areas=areas)
    return found


def _truth(record: Record) -> Truth:
    boxes, labels = host(record["truth_boxes"]), host(record["truth_labels"])
    ignored = np.zeros(len(labels), bool)
    for name in ("truth_difficult", "truth_crowd"):
        if name in record:
            ignored = ignored | host(record[name])
    areas = host(record["truth_areas"]) if "truth_areas" in record else area(boxes)
    return Truth(boxes, labels, ignored, areas)


def check_same_images(results: Mapping[str, Any], truths: Truths) -> None:
    """UserError unless both are of the same images: a lost image is not an image without detections."""
    if missing := sorted(truths.keys() - results.keys()):
        raise UserError(f"image {missing[0]!r} has truth but no results ({len(missing)} such images)")
    if extra := sorted(results.keys() - truths.keys()):
        raise UserError(f"image {extra[0]!r} has results but no truth ({len(extra)} such images)")


# -- VOC -------------------------------------------------------------------------------------------------


class Matches(NamedTuple):
    """Detections of all images by falling score, those on ignored objects left out, and what was to be found.

    label N, image N (its number, in the order of the truths), hit N; positives: label -> objects per image.
    """

    label: Any
    image: Any
    hit: Any
    positives: Mapping[int, Any]


def match_image(found: Detections, truth: Truth, iou: float) -> tuple[Any, Any, Any, Any]:
    """(label, score, hit, counted), each D, of one image's detections by falling score (VOCevaldet.m).

    Each detection is held against the object of its class that it overlaps most: below `iou` it is a false
    positive; if that object is ignored it does not count; if a better detection took the object, it is a
    false positive, though another object may overlap it too.

    The devkit measures inclusive boxes, width = x1 - x0 + 1; in half-open boxes, which start at the same
    pixel and end one later, x1 - x0 is the same number.
    """
    order = np.argsort(-found.scores, kind="stable")
    label, score = found.labels[order], found.scores[order]
    if not len(truth.labels):
        return label, score, np.zeros(len(order), bool), np.ones(len(order), bool)
    ious = _overlap(found.boxes[order], truth.boxes)  # D T
    ious[label[:, None] != truth.labels[None]] = -1
    best = ious.argmax(1)  # D, the first of equals, as the devkit's > takes it
    covered = ious[np.arange(len(best)), best] >= iou
    counted = ~(covered & truth.ignored[best])
    first = np.zeros(len(best), bool)
    first[np.flatnonzero(covered)[np.unique(best[covered], return_index=True)[1]]] = True
    return label, score, first & counted, counted


def match(results: Results, truths: Truths, iou: float = 0.5) -> Matches:
    """The matches of all images, whose detections never depend on another image's.

    Equal scores keep the order of the truths' images.
    """
    check_same_images(results, truths)
    images = [match_image(results[name], truth, iou) for name, truth in truths.items()]
    numbers = np.repeat(np.arange(len(images)), [len(image[0]) for image in images])
    empty = (np.zeros(0, np.int64), np.zeros(0), np.zeros(0, bool), np.zeros(0, bool))
    label, score, hit, counted = (np.concatenate(parts) for parts in zip(empty, *images))
    order = np.argsort(-score, kind="stable")
    order = order[counted[order]]
    return Matches(label[order], numbers[order], hit[order], _positives(truths))


def _positives(truths: Truths) -> dict[int, Any]:
    labels = {int(label) for truth in truths.values() for label in truth.labels}
    return {
        label: np.array([((t.labels == label) & ~t.ignored).sum() for t in truths.values()]) for label in sorted(labels)
    }


def average_precision(hits: Any, misses: Any, positives: Any, metric: str) -> Any:
    """AP (...) from running counts of true and false positives (... N) and the objects to find (...).

    metric: "area" (VOC 2010 on, VOCap.m) or "11pt" (VOC 2007, VOCevaldet.m). nan where there is no object.
    """
    positives = np.asarray(positives, np.float64)[..., None]
    with np.errstate(invalid="ignore", divide="ignore"):
        recall = hits / positives  # ... N
    precision = hits / np.maximum(hits + misses, 1)  # 0 before the first detection
    envelope = np.maximum.accumulate(precision[..., ::-1], -1)[..., ::-1]  # best precision at this recall or more
    if metric == "area":
        ap = (np.diff(recall, axis=-1, prepend=0) * envelope).sum(-1)
    elif metric == "11pt":
        ap = sum(np.where(recall >= level, precision, 0).max(-1, initial=0) for level in ELEVEN) / len(ELEVEN)
    else:
        raise ValueError(f"metric is {metric!r}, not one of {', '.join(VOC_METRICS)}")
    return np.where(positives[..., 0] > 0, ap, np.nan)


def _class_ap(matches: Matches, label: int, metric: str, weights: Any) -> Any:
    """AP (B) of a class under B weightings (B x images) of the images: 3 = as if it were there 3 times."""
    mine = matches.label == label
    weight, hit = weights[:, matches.image[mine]], matches.hit[mine]  # B N
    positives = weights @ matches.positives[label] if label in matches.positives else np.zeros(len(weights))
    return average_precision((weight * hit).cumsum(1), (weight * ~hit).cumsum(1), positives, metric)


def voc_ap(results: Results, truths: Truths, metric: str = "area", iou: float = 0.5) -> dict[int, float]:
    """AP by label after the VOC devkit, nan for a class of which there is no (counted) object.

    The mean over classes is `mean_ap` of it. UserError if the two are not of the same images.
    """
    return _voc_aps(match(results, truths, iou), metric, len(truths))


def _voc_aps(matches: Matches, metric: str, images: int) -> dict[int, float]:
    labels = sorted({int(label) for label in matches.label} | set(matches.positives))
    once = np.ones((1, images), np.int64)
    return {label: float(_class_ap(matches, label, metric, once)[0]) for label in labels}


def mean_ap(aps: Mapping[Any, float]) -> float:
    """Mean over the classes that have an AP; nan if none has."""
    values = [ap for ap in aps.values() if not np.isnan(ap)]
    return float(np.mean(values)) if values else float("nan")


# -- COCO ------------------------------------------------------------------------------------------------

# name -> (what, IoU or None for the mean over 0.50:0.95, size of object, most detections per image and class)
COCO_METRICS: dict[str, tuple[str, float | None, str, int]] = {
    "coco_ap": ("precision", None, "all", 100),
    "coco_ap50": ("precision", 0.5, "all", 100),
    "coco_ap75": ("precision", 0.75, "all", 100),
    "coco_ap_small": ("precision", None, "small", 100),
    "coco_ap_medium": ("precision", None, "medium", 100),
    "coco_ap_large": ("precision", None, "large", 100),
    "coco_ar1": ("recall", None, "all", 1),
    "coco_ar10": ("recall", None, "all", 10),
    "coco_ar100": ("recall", None, "all", 100),
}


def coco_ap(
    results: Results, truths: Truths, classes: int | None = None, fast: bool = False
) -> tuple[dict[str, float], dict[int, dict[str, float]]]:
    """COCO's numbers by COCOeval: (COCO_METRICS over all classes, the same for each label 1..classes).

    classes: how many there are (default: the largest label). fast: by faster-coco-eval, an extra.
    Ignored objects (crowd, and VOC's difficult) are given to COCOeval as crowd. nan where nothing is to be
    found. UserError if `fast` is asked and not installed, or the two are not of the same images.
    """
    check_same_images(results, truths)
    if classes is None:
        labels = [d.labels for d in results.values()] + [t.labels for t in truths.values()]
        classes = int(max((one.max() for one in labels if len(one)), default=0))
    evaluated = _coco_eval(results, truths, classes, fast)
    whole = {name: _coco_number(evaluated, name, slice(None)) for name in COCO_METRICS}
    by_label = {k: {name: _coco_number(evaluated, name, k - 1) for name in COCO_METRICS} for k in range(1, classes + 1)}
    return whole, by_label


def _coco_eval(results: Results, truths: Truths, classes: int, fast: bool) -> Any:
    make, evaluator = _coco_library(fast)
    masks = any(truth.boxes.dtype == object for truth in truths.values())
    images = [{"id": i, **_size(results[name], truth)} for i, (name, truth) in enumerate(truths.items(), 1)]
    header = {"images": images, "categories": [{"id": k} for k in range(1, classes + 1)]}
    with contextlib.redirect_stdout(io.StringIO()):  # COCOeval prints as it goes
        sides = []
        for annotations in (_coco_truths(truths), _coco_results(results, truths)):
            side = make()
            numbered = [{"id": n, **row} for n, row in enumerate(annotations, 1)]  # 0 would read as "no match"
            side.dataset = {**header, "annotations": numbered}
            side.createIndex()
            sides.append(side)
        evaluated = evaluator(*sides, iouType="segm" if masks else "bbox")
        evaluated.evaluate()
        evaluated.accumulate()
    return evaluated


def _coco_library(fast: bool) -> tuple[Any, Any]:
    if not fast:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

        return COCO, COCOeval
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError:
        raise UserError("fast COCO AP needs an extra: pip install faster-coco-eval") from None
    return COCO, COCOeval_faster


def _coco_truths(truths: Truths) -> list[dict[str, Any]]:
    return [
        {"image_id": i, "category_id": int(k), "iscrowd": int(ignored), **_coco_region(box), "area": float(size)}
        for i, truth in enumerate(truths.values(), 1)
        for box, k, ignored, size in zip(*truth)
    ]


def _coco_results(results: Results, truths: Truths) -> list[dict[str, Any]]:
    return [
        {"image_id": i, "category_id": int(k), "iscrowd": 0, **_coco_region(box), "score": float(score)}
        for i, name in enumerate(truths, 1)
        for box, score, k in zip(*results[name])
    ]


def _size(found: Detections, truth: Truth) -> dict[str, int]:
    """Height and width of an image, as its masks say it."""
    rles = [one for one in (*found.boxes, *truth.boxes) if isinstance(one, dict)]
    return dict(zip(("height", "width"), rles[0]["size"])) if rles else {}


def _coco_region(region: Any) -> dict[str, Any]:
    """Of a box, or of a mask's RLE, what COCOeval reads."""
    if isinstance(region, dict):
        x0, y0, x1, y1 = (float(value) for value in box_of(region))
        return {"segmentation": region, "bbox": [x0, y0, x1 - x0, y1 - y0], "area": area_of(region)}
    x0, y0, x1, y1 = (float(value) for value in region)
    return {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0)}


def _coco_number(evaluated: Any, name: str, label: Any) -> float:
    """One entry of COCOeval's tables, precision T R K A M or recall T K A M; -1 is nothing to find."""
    what, iou, size, most = COCO_METRICS[name]
    params = evaluated.params
    table = evaluated.eval[what][..., label, params.areaRngLbl.index(size), params.maxDets.index(most)]
    if iou is not None:
        table = table[np.isclose(params.iouThrs, iou)]
    found = table[table > -1]
    return float(found.mean()) if found.size else float("nan")


# -- all of them -----------------------------------------------------------------------------------------


def evaluate(results: Results, records: Records, fast: bool = False, masks: Results | None = None) -> dict[str, Any]:
    """{"metrics": {name: value}, "per_class": {class: {name: value, "truths": n}}}, ready for JSON.

    Names: "voc_11pt", "voc_area" (IoU 0.5) and COCO_METRICS; those of masks begin with "mask_". None where there is
    nothing to find. "masks_left_out": why masks were not measured, if they were not.
    records: hold the `truth_*` fields; their `classes` names labels 1..K. masks: the results with masks in the place
        of boxes; measured if every image has annotated masks.
    UserError if the two are not of the same images, or a label is none of the classes.
    """
    found = _evaluated(results, read_truths(records), tuple(records.classes), fast)
    truths = read_mask_truths(records) if masks is not None else None
    if masks is None:
        return found
    if truths is None:
        return {**found, "masks_left_out": "masks were not measured: an image of the data has no annotated ones"}
    of_masks = _evaluated(masks, truths, tuple(records.classes), fast)
    by_class = of_masks["per_class"]
    return {
        "metrics": {**found["metrics"], **_prefixed(of_masks["metrics"])},
        "per_class": {name: {**row, **_prefixed(by_class[name])} for name, row in found["per_class"].items()},
    }


def _prefixed(values: Mapping[str, Any]) -> dict[str, Any]:
    return {f"mask_{name}": value for name, value in values.items() if name != "truths"}


def _evaluated(results: Results, truths: Truths, classes: Sequence[str], fast: bool) -> dict[str, Any]:
    _check_labels(results, truths, len(classes))
    matches = match(results, truths)
    voc = {f"voc_{metric}": _voc_aps(matches, metric, len(truths)) for metric in reversed(VOC_METRICS)}
    coco, coco_by_label = coco_ap(results, truths, len(classes), fast)
    metrics = {**{name: mean_ap(aps) for name, aps in voc.items()}, **coco}
    per_class = {}
    for label, name in enumerate(classes, 1):
        values = {**{metric: aps.get(label, np.nan) for metric, aps in voc.items()}, **coco_by_label[label]}
        n = int(matches.positives[label].sum()) if label in matches.positives else 0
        per_class[name] = {**_no_nan(values), "truths": n}
    return {"metrics": _no_nan(metrics), "per_class": per_class}


def left_out(records: Records) -> dict[str, Any]:
    """What of a data set cannot be used and so was not measured: {"images": n, "objects": n, "first": sentences}."""
    problems: Sequence[Problem] = getattr(records, "problems", ())
    lost = [problem for problem in problems if problem.loses]
    counts = Counter(problem.loses for problem in lost)
    return {"images": counts["image"], "objects": counts["object"], "first": [str(one) for one in lost[:FIRST]]}


def _check_labels(results: Results, truths: Truths, classes: int) -> None:
    for what, side in (("a detection", results), ("a truth", truths)):
        for name, one in side.items():
            if ((one.labels < 1) | (one.labels > classes)).any():
                raise UserError(f"image {name!r}: {what} has a label that is not in 1..{classes}")


def _no_nan(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: None if np.isnan(value) else float(value) for name, value in values.items()}


# -- proposals -------------------------------------------------------------------------------------------


class Overlaps(NamedTuple):
    """Of each object that counts, the best overlap with an image's first `top` boxes: best tops T, labels T."""

    best: Any
    labels: Any


def best_overlaps(boxes: Any, truth: Truth, tops: Sequence[int | None]) -> Overlaps:
    """The best overlaps with the objects of one image that are not ignored; 0 where there is no box.

    boxes: R 4, best first. tops: how many of them are looked at, None for all.
    """
    ious = _overlap(boxes, truth.boxes[~truth.ignored])  # R T
    return Overlaps(np.stack([ious[:top].max(0, initial=0) for top in tops]), truth.labels[~truth.ignored])


def join(parts: Iterable[Overlaps], tops: Sequence[int | None]) -> Overlaps:
    """The overlaps of many images as one."""
    parts = list(parts)
    best = np.concatenate([np.zeros((len(tops), 0)), *(part.best for part in parts)], 1)
    return Overlaps(best, np.concatenate([np.zeros(0, np.int64), *(part.labels for part in parts)]))


def recall_table(overlaps: Overlaps, ious: Sequence[float], tops: Sequence[int | None]) -> dict[str, Any]:
    """{"recall": {top: {iou: share}}, "ar": {top: n}, "abo": {top: n}, "mabo": {top: n}, "truths": T}.

    ar: recall averaged over IoU from 0.5 to 1 (Hosang et al. 2015, section 5.1). abo: mean best overlap of all
    objects. mabo: the mean over classes of theirs (Uijlings et al. 2013, section 5). None where there is no object.
    """
    best, labels = overlaps
    if not len(labels):
        nothing = dict.fromkeys(("ar", "abo", "mabo"), dict.fromkeys(tops))
        return {"recall": {top: dict.fromkeys(ious) for top in tops}, **nothing, "truths": 0}
    by_class = np.stack([best[:, labels == label].mean(1) for label in np.unique(labels)])  # K tops
    means = {
        "ar": 2 * np.maximum(best - 0.5, 0).mean(1),  # the integral over IoU, object by object
        "abo": best.mean(1),
        "mabo": by_class.mean(0),
    }
    return {
        "recall": {top: {iou: float((row >= iou).mean()) for iou in ious} for top, row in zip(tops, best)},
        **{name: dict(zip(tops, values.tolist())) for name, values in means.items()},
        "truths": len(labels),
    }


def proposal_recall(
    boxes: Mapping[str, Any],
    truths: Truths,
    ious: Sequence[float] = (0.5, 0.6, 0.7, 0.8, 0.9),
    tops: Sequence[int | None] = (100, 300, 1000, 2000),
) -> dict[str, Any]:
    """The `recall_table` of whole data sets.

    boxes: image id -> R 4, best first. UserError if the two are not of the same images.
    """
    check_same_images(boxes, truths)
    parts = [best_overlaps(boxes[name], truth, tops) for name, truth in truths.items()]
    return recall_table(join(parts, tops), ious, tops)


# -- where objects are lost ------------------------------------------------------------------------------

ERRORS = ("found", "no proposal", "classified low", "suppressed", "localised badly after regression")


def errors_by_stage(
    truth: Truth, boxes: Any, scores: Any, found: Detections, *, min_score: float = 0.0, iou: float = 0.5
) -> list[str]:
    """For each object of one image that is not ignored, the stage that lost it, one of ERRORS.

    boxes: R 4. scores: R K, before suppression. found: what suppression kept, scores unchanged. "Covers"
    means IoU >= `iou`. In this order:
    found: of the objects of its class, some detection overlaps this one most, and covers it.
    no proposal: no proposal covers it.
    classified low: no covering proposal has a score above `min_score` for its class (0: a linear SVM's side).
    localised badly after regression: a covering, scored proposal was kept (a detection of its class has its
        score), and no detection of its class covers it any more.
    suppressed: the rest: its covering, scored proposals were removed by NMS or by the best-of limits.
    """
    covers = _overlap(boxes, truth.boxes) >= iou  # R T
    return [
        _fate(covers[:, t], scores[:, truth.labels[t] - 1], *_of_class(found, truth, t), min_score, iou)
        for t in np.flatnonzero(~truth.ignored).tolist()
    ]


def read_all(
    records: Iterable[Record], min_score: float = 0.0
) -> tuple[dict[str, Detections], dict[str, Detections] | None, dict[str, int]]:
    """The detections of records, these with masks if they have any, and how many objects each stage lost, in one pass.

    Objects are counted where the records hold truth, `boxes` and `scores` beside the detections.
    UserError if two records have one id.
    """
    fates: Counter[str] = Counter()
    masks: dict[str, Detections] = {}

    def read() -> Iterator[tuple[str, Detections]]:
        for record in records:
            found = _detections(record)
            fates.update(_fates(record, found, min_score))
            if "det_masks" in record:
                masks[record.id] = _detected_masks(record)
            yield record.id, found

    results = _by_id(read())
    return results, masks or None, {fate: fates[fate] for fate in ERRORS} if fates else {}


class Scored(NamedTuple):
    """results: image id -> detections. masks: the same with masks, if they have any. scores: of `evaluate`, and "lost":
    objects by what befell them.
    """

    results: Results
    masks: Results | None
    scores: dict[str, Any]


def scored(detected: Iterable[Record], data: Records) -> Scored:
    """The detections of a data set's records, and how good they are."""
    results, masks, lost = read_all(detected)
    return Scored(results, masks, {**evaluate(results, data, masks=masks), "lost": lost})


def _fates(record: Record, found: Detections, min_score: float) -> list[str]:
    if not {"truth_boxes", "boxes", "scores"} <= record.keys():
        return []
    return errors_by_stage(_truth(record), host(record["boxes"]), host(record["scores"]), found, min_score=min_score)


def _of_class(found: Detections, truth: Truth, t: int) -> tuple[Any, Any, Any]:
    """Of the detections of an object's class: scores, overlaps with it, whether it is the best for them."""
    mine, rivals = found.labels == truth.labels[t], np.flatnonzero(truth.labels == truth.labels[t])
    ious = _overlap(found.boxes[mine], truth.boxes[rivals])  # D T
    return found.scores[mine], ious[:, rivals == t][:, 0], rivals[ious.argmax(1)] == t


def _fate(covers: Any, scores: Any, kept: Any, ious: Any, claims: Any, min_score: float, iou: float) -> str:
    """covers, scores: R, of the proposals. kept, ious, claims: D, of `_of_class`."""
    if (claims & (ious >= iou)).any():
        return "found"
    if not covers.any():
        return "no proposal"
    good = scores[covers & (scores > min_score)]
    if not len(good):
        return "classified low"
    moved_away = np.isin(good, kept).any() and not (ious >= iou).any()
    return "localised badly after regression" if moved_away else "suppressed"


# -- comparing -------------------------------------------------------------------------------------------


def bootstrap(
    first: Results,
    second: Results,
    truths: Truths,
    metric: str = "voc_area",
    *,
    iou: float | Sequence[float] = 0.5,
    n: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """How much better `second` is than `first`, with a paired bootstrap over images, 95 %.

    metric: "voc_area" or "voc_11pt", the mean over classes. iou: from which on an object is found; of several the mean
        over them is compared. n: resamples. seed: draws them.
    Returns {"difference", "low", "high", "resolved": whether the interval excludes 0}. Matches are made
    once for each IoU: an image drawn three times counts three times. UserError if the images are not the same, or hold
    no object.
    """
    kind = metric.removeprefix("voc_")
    if kind not in VOC_METRICS or kind == metric:
        raise ValueError(f"metric is {metric!r}, not one of {', '.join(f'voc_{name}' for name in VOC_METRICS)}")
    if all(truth.ignored.all() for truth in truths.values()):
        raise UserError("there is no object in these images, so nothing to compare by")
    images = len(truths)
    drawn = np.random.default_rng(seed).multinomial(images, np.full(images, 1 / images), size=n)
    weights = np.concatenate([np.ones((1, images), np.int64), drawn])  # the sample itself, then n resamples
    ious = [iou] if isinstance(iou, (int, float)) else list(iou)

    def mean(results: Results) -> Any:
        return np.mean([_mean_aps(match(results, truths, one), kind, weights) for one in ious], 0)

    before, after = mean(first), mean(second)
    difference = after - before
    low, high = np.nanpercentile(difference[1:], [2.5, 97.5])
    return {
        "difference": float(difference[0]),
        "low": float(low),
        "high": float(high),
        "resolved": bool(low > 0 or high < 0),
    }


def _mean_aps(matches: Matches, metric: str, weights: Any) -> Any:
    """Mean AP over classes (B) under B weightings of the images."""
    rows = max(1, 1_000_000 // max(len(matches.hit), 1))  # B x N counts stand in memory: 8 MB of each
    parts = [weights[i : i + rows] for i in range(0, len(weights), rows)]
    aps = [[_class_ap(matches, label, metric, part) for label in matches.positives] for part in parts]
    table = np.concatenate([np.array(part) for part in aps], 1)  # K B
    there = ~np.isnan(table)  # a resample may miss a class
    with np.errstate(invalid="ignore"):
        return np.where(there, table, 0).sum(0) / there.sum(0)


# -- R-CNN's data-set limit ------------------------------------------------------------------------------


def top_per_set(results: Results, per_image: float = 40) -> dict[str, Detections]:
    """The detections with, for each class, at most per_image x images kept over the whole set, by score.

    R-CNN's code, which raises a threshold for each class as it goes (40 per image). Equal scores keep the
    order of the images.
    """
    most = int(per_image * len(results))
    labels = np.concatenate([np.zeros(0, np.int64), *(one.labels for one in results.values())])
    scores = np.concatenate([np.zeros(0), *(one.scores for one in results.values())])
    keep = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        mine = np.flatnonzero(labels == label)
        keep[mine[np.argsort(-scores[mine], kind="stable")[:most]]] = True
    ends = np.cumsum([len(one.labels) for one in results.values()])[:-1]
    parts = np.split(keep, ends) if results else []
    return {name: Detections(*(field[part] for field in one)) for (name, one), part in zip(results.items(), parts)}


def _overlap(a: Any, b: Any) -> Any:
    """IoU of boxes or masks in float64, as the devkit has it (with whole pixels, 0.5 itself is common); 0 for none."""
    import torch

    if object in (a.dtype, b.dtype):
        return mask_overlap(list(a), list(b), np.zeros(len(b), bool))
    ious = overlap(*(torch.as_tensor(np.asarray(boxes, np.float64)).reshape(-1, 4) for boxes in (a, b)))
    return ious.nan_to_num().numpy()
