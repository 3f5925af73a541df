"""The item table on the device that trains: a batch takes its rows there, only indices travel."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from training.batches import Batch
from training.item_table import ItemTable
from training.models.items import ItemRows
from training.models.view import Requests


class ResidentItems:
    """An ItemTable's arrays as tensors on one device; on the CPU they are the arrays themselves.

    known: (I+1,) bool, which items have an ID row; evidence: (I+1,) float32, log1p of the examples behind it.
    """

    def __init__(
        self,
        items: ItemTable,
        known: npt.NDArray[np.bool_],
        evidence: npt.NDArray[np.float32],
        device: torch.device,
    ) -> None:
        self.device = device
        self.table = items
        self.columns = {
            name: torch.from_numpy(np.ascontiguousarray(array)).to(device)
            for name, array in (
                ("codes", items.codes),
                ("inv_norm", items.inv_norm),
                ("attributes", items.attributes),
                ("attribute_values", items.attribute_values),
                ("id_known", known),
                ("id_evidence", evidence),
            )
        }

    def rows(self, batch: Batch, items: Tensor, id_vectors: Tensor) -> ItemRows:
        """What a ranker reads of a batch. items: (K,) int64 item numbers; id_vectors: (K, d) float32."""
        content = (
            items if batch.versions is None else send(torch.from_numpy(batch.content).long(), self.device)
        )
        taken = {
            name: column.index_select(0, items if name in ("id_known", "id_evidence") else content)
            for name, column in self.columns.items()
        }
        return ItemRows(id_vectors=id_vectors, **taken)


def send(array: Tensor, device: torch.device) -> Tensor:
    """A CPU tensor on the device, without waiting for the copy."""
    return array if device.type == "cpu" else array.pin_memory().to(device, non_blocking=True)


def send_requests(requests: Requests, device: torch.device) -> Requests:
    """All of a batch's index arrays on the device."""
    if device.type == "cpu":
        return requests
    there = {n: send(tensor, device) for n, tensor in requests._asdict().items() if tensor is not None}
    return requests._replace(**there)


def send_rows(rows: ItemRows, device: torch.device) -> ItemRows:
    """Item rows on the device."""
    if device.type == "cpu":
        return rows
    there = {n: tensor.to(device) for n, tensor in rows._asdict().items() if tensor is not None}
    return rows._replace(**there)
