"""What a request brings instead of rows and vectors: texts and pictures, encoded between fetch and run.

A query is never dropped silently: what cannot be encoded is the request's error. An item that cannot be
encoded stays missing and is counted. A deleted item stays deleted, whatever content comes along.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from contracts.encoded import EncodedItem
from contracts.errors import (
    DeadlineExceeded,
    InvalidInput,
    RepcenterError,
    TooLarge,
    Unavailable,
    shown,
)
from contracts.features import Assembled, query_rows
from contracts.item_json import TITLE
from contracts.items import Item
from contracts.request import ScoreRequest
from contracts.schema import FeatureSchema
from contracts.scores import ENCODED, Completeness
from contracts.space import Space
from param_server.store import Fetched
from serving.encoder_link import Answer
from serving.encoding import Encoding, Pending
from serving.loaded import LoadedGeneration

log = logging.getLogger(__name__)
_SPARE_S = 0.01  # of the deadline, beside the graph's run, for what else is to be done
_SPARE_SHARE = 0.1

Flags = npt.NDArray[np.bool_]
Deleted = Callable[[Space, Sequence[str]], Awaitable[Flags]]


@dataclass(frozen=True, eq=False)
class Resolved:
    """A request as if its rows and vectors had been there. encoded: (K-1,) bool of `assembled.item_ids`, None
    where no item was; failed: items that could not be encoded; encode_s: how long all of it took."""

    request: ScoreRequest
    assembled: Assembled
    fetched: Fetched
    encoded: Flags | None = None
    failed: int = 0
    encode_s: float = 0.0

    def mark(
        self, statuses: npt.NDArray[np.uint8], completeness: Completeness
    ) -> tuple[npt.NDArray[np.uint8], Completeness]:
        """statuses (N,) and completeness of a run on these rows, with what was encoded told apart: the
        tables knew such an item only where it has an ID row."""
        completeness = replace(completeness, encode_failed=self.failed)
        if self.encoded is None:
            return statuses, completeness
        encoded = np.concatenate([np.zeros(1, np.bool_), self.encoded])
        unknown = encoded & ~np.concatenate([np.zeros(1, np.bool_), self.fetched.id_found])
        candidates = self.assembled.candidates[0]
        behaviours = self.assembled.behaviours[0][self.assembled.behaviour_mask[0]]
        return np.where(encoded[candidates], np.uint8(ENCODED), statuses), replace(
            completeness,
            candidates_found=completeness.candidates_found - int(unknown[candidates].sum()),
            behaviours_found=completeness.behaviours_found - int(unknown[behaviours].sum()),
            encoded=int(encoded.sum()),
        )


def brings(request: ScoreRequest) -> bool:
    """Whether anything may have to be encoded."""
    return bool(request.query_text or request.query_image or request.missing == "encode")


class Brought:
    """encoding: None where no encoder is set; deleted: which items of the table are, (K,) bool."""

    def __init__(self, encoding: Encoding | None, deleted: Deleted) -> None:
        self._encoding, self._deleted = encoding, deleted

    async def resolve(
        self,
        request: ScoreRequest,
        loaded: LoadedGeneration,
        assembled: Assembled,
        fetched: Fetched,
        deadline_at: float,
        run_s: float,
    ) -> Resolved:
        """deadline_at: time.perf_counter() of the request; run_s: what its graph will take.

        The request comes back with vectors in place of what was searched for, and without pictures and
        contents. Raises InvalidInput or TooLarge that names what cannot be encoded of the query, Overloaded,
        Unavailable, DeadlineExceeded, SpaceMismatch where the query cannot be.
        """
        if not brings(request):
            return Resolved(request, assembled, fetched)
        began = time.perf_counter()
        spare_s = min(_SPARE_S, _SPARE_SHARE * max(0.0, deadline_at - began))
        until = deadline_at - run_s - spare_s
        query = self._ask_query(request, loaded, until)
        wanted = self._wanted(request, assembled, fetched)
        answers = await self._answers(wanted, loaded, fetched, until) if wanted else {}
        if query is not None:
            (answer,) = await query.answers()
            if isinstance(answer, RepcenterError):
                raise _of_query(answer, request)
            assembled, request = _with_query(assembled, request, answer, loaded.schema)
        fetched, encoded, failed = _with_records(assembled, fetched, answers)
        return Resolved(
            replace(request, query_text="", query_image=b"", contents={}),
            assembled,
            fetched,
            encoded,
            failed,
            time.perf_counter() - began if query is not None or wanted else 0.0,
        )

    def _ask_query(self, request: ScoreRequest, loaded: LoadedGeneration, until: float) -> Pending | None:
        """None where there is nothing to encode, or nobody to read it."""
        if not (request.query_text or request.query_image):
            return None
        if all(_given(request, m.name) for m in loaded.schema.query):
            return None
        if self._encoding is None:
            field = "query_text" if request.query_text else "query_image"
            raise InvalidInput(field, "…", "needs an encoder: set REPCENTER_ENCODER_TARGET of the scorer")
        text = {TITLE: request.query_text} if request.query_text else {}
        item = Item("query", text, image=request.query_image or None)
        return self._encoding.ask(loaded.space, [item], until)

    def _wanted(self, request: ScoreRequest, assembled: Assembled, fetched: Fetched) -> dict[int, Item]:
        """Items without a content record whose content came along, by their place in `assembled.item_ids`."""
        if request.missing != "encode" or not request.contents:
            return {}
        if self._encoding is None:
            raise InvalidInput(
                "missing", "encode", "needs an encoder: set REPCENTER_ENCODER_TARGET of the scorer"
            )
        contents, item_ids = request.contents, assembled.item_ids
        return {
            place: contents[item_ids[place]]
            for place in np.flatnonzero(~fetched.found).tolist()
            if item_ids[place] in contents
        }

    async def _answers(
        self, wanted: dict[int, Item], loaded: LoadedGeneration, fetched: Fetched, until: float
    ) -> dict[int, Answer]:
        """By place; deleted items are left out."""
        assert self._encoding is not None
        try:
            if fetched.stale:
                raise Unavailable("the tables do not say whether the item was deleted")
            ids = [item.item_id for item in wanted.values()]
            async with asyncio.timeout(max(0.0, until - time.perf_counter())):
                deleted = await self._deleted(loaded.space, ids)
        except TimeoutError:
            return dict.fromkeys(wanted, DeadlineExceeded("the tables did not answer in time"))
        except (Unavailable, DeadlineExceeded) as error:
            return dict.fromkeys(wanted, error)
        places = [place for place, gone in zip(wanted, deleted.tolist(), strict=True) if not gone]
        if not places:
            return {}
        asked = self._encoding.ask(loaded.space, [wanted[place] for place in places], until)
        return dict(zip(places, await asked.answers(), strict=True))


def _given(request: ScoreRequest, modality: str) -> bool:
    """Whether the request has a vector of this modality; zeros say nothing."""
    return bool(np.any(request.query.get(modality, ())))


def _with_query(
    assembled: Assembled, request: ScoreRequest, answer: EncodedItem, schema: FeatureSchema
) -> tuple[Assembled, ScoreRequest]:
    """The request's own vectors, and the encoded ones of the other modalities."""
    encoded = {name: vector.tolist() for name, vector in answer.vectors.items() if not _given(request, name)}
    request = replace(request, query={**request.query, **encoded})
    codes, inv_norm = query_rows([request.query], schema)
    inputs = {**assembled.request_inputs, "query_codes": codes, "query_inv_norm": inv_norm}
    return replace(assembled, request_inputs=inputs), request


def _with_records(
    assembled: Assembled, fetched: Fetched, answers: dict[int, Answer]
) -> tuple[Fetched, Flags | None, int]:
    """Fetched rows with the encoded ones among them, which those were, and how many failed."""
    there = {place: answer for place, answer in answers.items() if isinstance(answer, EncodedItem)}
    for place, answer in answers.items():
        if isinstance(answer, RepcenterError):
            log.debug("item %s was not encoded: %s", shown(assembled.item_ids[place]), answer)
    failed = len(answers) - len(there)
    if not there:
        return fetched, None, failed
    records, places = fetched.records.copy(), list(there)
    records[places] = np.frombuffer(b"".join(a.record for a in there.values()), records.dtype)
    encoded = np.zeros(len(records), np.bool_)
    encoded[places] = True
    return replace(fetched, records=records, found=fetched.found | encoded), encoded, failed


def _of_query(error: RepcenterError, request: ScoreRequest) -> RepcenterError:
    """What the encoder says of an item, said of the query."""
    if not isinstance(error, InvalidInput | TooLarge):
        return error
    pictured = request.query_image and (not request.query_text or str(error).startswith("image"))
    if pictured:
        return InvalidInput("query_image", f"{len(request.query_image)} bytes", f"was refused: {error}")
    return InvalidInput("query_text", request.query_text, f"was refused: {error}")
