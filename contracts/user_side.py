"""A serving graph in two: a state that a user's behaviours alone give, and the scores of candidates with it.

    behaviours' rows, mask, gaps ──user.onnx──► state ──┐
    candidates' rows, context, query ───────────────────┴──with_user.onnx──► logit, score

Which tensors are a state's is the bundle's business: whatever the first graph gives and the second reads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from contracts.errors import BrokenBundle
from contracts.features import BEHAVIOUR_INPUTS, GRAPH_INPUTS, GRAPH_OUTPUTS, ROW_INPUTS, Inputs
from contracts.onnx_model import OnnxModel


class UserSide:
    """Both graphs of one bundle. Thread-safe to run."""

    def __init__(self, user: OnnxModel, with_user: OnnxModel) -> None:
        """Raises BrokenBundle where the two do not belong together."""
        self._user, self._with_user = user, with_user
        state = set(user.output_names)
        wrong = {
            "user inputs": set(user.input_names) - {*ROW_INPUTS, *BEHAVIOUR_INPUTS},
            "candidates' inputs": set(with_user.input_names)
            - (set(GRAPH_INPUTS) - {*BEHAVIOUR_INPUTS})
            - state,
            "unread tensors": state - set(with_user.input_names),
            "absent outputs": set(GRAPH_OUTPUTS) - set(with_user.output_names),
        }
        for what, names in wrong.items():
            if names:
                raise BrokenBundle(f"the graph's user side does not fit: {what} {sorted(names)}")
        self.input_names = tuple(
            name for name in GRAPH_INPUTS if name in user.input_names or name in with_user.input_names
        )
        self._by_user = [name for name in ROW_INPUTS if name in user.input_names]
        self._by_candidate = [name for name in ROW_INPUTS if name in with_user.input_names]
        self._given = [n for n in with_user.input_names if n not in ROW_INPUTS and n not in state]

    def history(self, inputs: Mapping[str, npt.NDArray[Any]]) -> Inputs:
        """Everything that a state is made of, one row for each behaviour: (B T, …), mask, gaps (B, T).

        Equal arrays give equal states, whichever row numbers a request happened to use.
        """
        behaviours = inputs["behaviours"]
        rows = behaviours.reshape(-1)
        own: Inputs = {name: inputs[name].take(rows, axis=0) for name in self._by_user}
        own["behaviours"] = np.arange(rows.size, dtype=np.int32).reshape(behaviours.shape)
        for name in BEHAVIOUR_INPUTS[1:]:
            if name in self._user.input_names:
                own[name] = np.ascontiguousarray(inputs[name])
        return own

    def state(self, history: Inputs) -> Inputs:
        """What `history` gives, by the tensors' names."""
        return self._user.run(history)

    def scores(
        self,
        inputs: Mapping[str, npt.NDArray[Any]],
        state: Mapping[str, npt.NDArray[Any]],
        outputs: Sequence[str] | None = None,
    ) -> Inputs:
        """The outputs, each (B, N), of the candidates in `inputs` with a state."""
        candidates = inputs["candidates"]
        end = int(candidates.max(initial=0)) + 1  # `assemble` gives candidates the first rows
        own = {name: inputs[name][:end] for name in self._by_candidate}
        return self._with_user.run({**own, **{n: inputs[n] for n in self._given}, **state}, outputs)

    def run(
        self, inputs: Mapping[str, npt.NDArray[Any]], outputs: Sequence[str] | None = None
    ) -> dict[str, npt.NDArray[Any]]:
        """As the whole graph's: state and scores in one call."""
        return self.scores(inputs, self.state(self.history(inputs)), outputs)
