"""The words of `repcenter train`; what it does is in cli.train."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def train(
    data: Annotated[Path, typer.Argument(help="Your data (docs/data.md).")],
    encoder: Annotated[str, typer.Option(help="Encoder bundle whose vectors the offline table holds.")],
    offline: Annotated[str, typer.Option(help="Root of the offline table: a directory or a URL.")],
    out: Annotated[Path, typer.Option(help="Checkpoints, then bundle/ and report.json.")],
    ranker: Annotated[
        str, typer.Option(help="din, din_pos, ciubm, dmae, or a .json file (docs/rankers.md).")
    ] = "dmae",
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the train split.")] = 2,
    batch_rows: Annotated[int, typer.Option(min=1, help="Candidate rows of a step, of all ranks.")] = 768,
    learning_rate: Annotated[float, typer.Option(help="At the first step; falls linearly to 0.")] = 3e-3,
    validations: Annotated[int, typer.Option(min=1, help="Validations per epoch.")] = 1,
    patience: Annotated[int, typer.Option(min=1, help="Validations without a better AUC to stop at.")] = 2,
    checkpoint_steps: Annotated[int, typer.Option(min=0, help="Steps between checkpoints.")] = 200,
    seed: Annotated[int, typer.Option(help="Seed of the draws and the training.")] = 0,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads of each process.")] = None,
    precision: Annotated[str, typer.Option(help="Of the model's matrix products: fp32 or bf16.")] = "fp32",
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    base: Annotated[str | None, typer.Option(help="Ranker bundle to train on from.")] = None,
    base_table: Annotated[str | None, typer.Option(help="Name of its published full ID table.")] = None,
    since: Annotated[int | None, typer.Option(help="With --base: where the new day begins, seconds.")] = None,
    overlay: Annotated[bool, typer.Option("--overlay", help="Seal changed ID rows alone.")] = False,
    user_columns: Annotated[
        str | None, typer.Option(help="Of users.parquet, by commas; all if absent.")
    ] = None,
    context_columns: Annotated[
        str | None, typer.Option(help="Of interactions.parquet, by commas; all if absent, none if empty.")
    ] = None,
    encoding: Annotated[
        list[str] | None,
        typer.Option(help="column=vocabulary|hash|bins|standard|log; repeat."),
    ] = None,
    exclude_unknown: Annotated[
        bool, typer.Option("--exclude-unknown", help="Count rows of unknown items instead of refusing them.")
    ] = False,
    new_share: Annotated[
        float, typer.Option(min=0, max=0.9, help="Of the items, held out as new to measure on; 0 = none.")
    ] = 0.15,
    time_gaps: Annotated[
        bool, typer.Option("--time-gaps", help="Read the time since each behaviour.")
    ] = False,
    negative_sampling_rate: Annotated[
        float, typer.Option(help="Share of its negatives that the log has kept; scores are corrected.")
    ] = 1.0,
    calibrate_similarity: Annotated[
        bool, typer.Option("--calibrate-similarity", help="Stretch DMAE's similarities over all buckets.")
    ] = False,
) -> None:
    """Train one ranker; an interrupted run goes on. Under torchrun on all its processes:

    python -m torch.distributed.run --nproc-per-node 2 -m cli.main train DATA ...
    """
    from cli.train import TrainOptions, run_training
    from training.loop import TrainingConfig

    config = TrainingConfig(
        epochs=epochs,
        batch_rows=batch_rows,
        learning_rate=learning_rate,
        validations_per_epoch=validations,
        patience=patience,
        seed=seed,
        checkpoint_steps=checkpoint_steps,
        precision=precision,  # type: ignore[arg-type]  # checked by TrainingConfig
        device=device,  # type: ignore[arg-type]
    )
    run_training(
        TrainOptions(
            data=data,
            encoder=encoder,
            offline=offline,
            out=out,
            ranker=ranker,
            config=config,
            base=base,
            base_table=base_table,
            since_s=since,
            overlay=overlay,
            threads=threads,
            user_columns=_names(user_columns),
            context_columns=_names(context_columns),
            encodings=dict(_pair(e, "--encoding") for e in encoding or []),  # type: ignore[misc]  # checked
            unknown_items="exclude" if exclude_unknown else "refuse",
            new_share=new_share,
            time_gaps=time_gaps,
            negative_sampling_rate=negative_sampling_rate,
            calibrate_similarity=calibrate_similarity,
        )
    )


def _names(given: str | None) -> list[str] | None:
    return None if given is None else [name.strip() for name in given.split(",") if name.strip()]


def _pair(given: str, option: str) -> tuple[str, str]:
    name, equals, value = given.partition("=")
    if not (name and equals and value):
        from contracts.errors import InvalidInput

        raise InvalidInput(option, given, "must be column=encoding")
    return name, value
