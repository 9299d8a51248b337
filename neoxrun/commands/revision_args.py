"""What ``--revisions`` and its companions ask for: the same work on several revisions of a repository."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from neoxrun.commands import common
from neoxrun.config.names import bare_name
from neoxrun.config.settings import Settings
from neoxrun.download import hub, models_file, revisions
from neoxrun.download.catalog import DEFAULT_MODEL, Catalog, Model
from neoxrun.download.revision_folders import RevisionOptions, fetch_in_turn
from neoxrun.download.revisions import MAIN, Revision
from neoxrun.errors import CheckpointError, NetworkError, UsageError
from neoxrun.terminal.log import log
from neoxrun.terminal.plots import check_plot
from neoxrun.terminal.words import counted


def check_companions(args: argparse.Namespace) -> None:
    """Refuse what only makes sense with ``--revisions``, or without.

    Raises:
        UsageError: such an option is given, or the plot cannot be drawn.
        DataError: the folder of the plot cannot be written to.
    """
    companions = {
        "--repo": args.repo,
        "--revisions-dir": args.revisions_dir,
        "--keep-revisions": args.keep_revisions,
        "--allow-duplicates": args.allow_duplicates,
        "--plot": args.plot,
    }
    given = [name for name, value in companions.items() if value]
    if args.revisions is None:
        if given:
            raise UsageError(
                f"{given[0]} needs --revisions",
                code="missing_option",
                hint="Say which revisions are meant: --revisions all|step1000,step2000|START:END:STEP.",
            )
        return
    against = {"--checkpoint": args.checkpoint, "--random-weights": args.random_weights, "--adapter": args.adapter}
    for name, value in against.items():
        if value:
            raise UsageError(
                f"{name} and --revisions cannot be combined",
                code="conflicting_options",
                hint=f"The weights come from the hub: leave out {name}.",
            )
    if not common.is_alone(args):
        raise UsageError(
            "--revisions starts a job for each revision, on one host, and without torchrun or srun",
            code="conflicting_options",
            hint="Leave out --nnodes, torchrun and srun.",
        )
    if args.plot is not None:
        check_plot(args.plot)


@dataclass(frozen=True)
class ChosenRevisions:
    """The revisions of one command, none of which has been fetched yet.

    Attributes:
        args: the command line.
        model: whose revisions they are.
        repository: its repository on the hub.
        revisions: in the order in which they are to be run.
    """

    args: argparse.Namespace
    model: Model
    repository: str
    revisions: tuple[Revision, ...]

    def settings(self, folder: Path | None = None) -> Settings:
        """The settings of the command line, for the weights and the tokenizer in ``folder``."""
        changes: dict[str, object] = {"config": _sources(self.args, self.model)}
        if folder is not None:
            changes["checkpoint"] = str(folder)
            tokenizer = folder / self.model.tokenizer
            if self.args.tokenizer is None and tokenizer.is_file():
                changes["tokenizer"] = str(tokenizer)
        return common.settings_from_args(argparse.Namespace(**{**vars(self.args), **changes}))

    def run_each(self, wanted: Sequence[Revision], run: Callable[[Revision, Settings], int]) -> int:
        """Fetch these revisions in turn, and run each: 0, or the first other exit code, which ends the loop.

        Raises:
            NeoxrunError: see ``fetch_in_turn``.
        """
        options = RevisionOptions(
            self.model,
            (self.args.revisions_dir or Path()).expanduser().absolute(),
            keep=self.args.keep_revisions,
            show=self.args.verbosity >= 0,
        )
        with closing(fetch_in_turn(wanted, options)) as fetched:
            for number, (revision, folder) in enumerate(fetched, start=1):
                log.info(f"{revision.name}: {number} of {len(wanted)}")
                code = run(revision, self.settings(folder))
                if code:
                    return code
        return 0


def choose(args: argparse.Namespace) -> ChosenRevisions:
    """Find the revisions, and refuse those that have the weights of another.

    Raises:
        UsageError: the repository is not known, or ``--revisions`` has a wrong form.
        NetworkError: the hub does not respond, or a revision does not exist.
        CheckpointError: revisions have the weights of another, and that was not allowed.
    """
    model = _model(args, models_file.load_catalog())
    if model.hub is None:
        raise UsageError(
            f"{model.name} has no revisions: it comes from a web folder, not from the Hugging Face hub",
            code="conflicting_options",
            hint="Leave out --revisions, or name a repository with --repo OWNER/NAME.",
        )
    known = hub.list_revisions(model.hub)
    names = revisions.choose_revisions(args.revisions, known, model.hub)
    log.info(f"{model.hub}: {counted(len(names), 'revision')}, from {names[0]} to {names[-1]}")
    found = revisions.look_up_revisions(model.hub, names)
    _check_duplicates(args, model.hub, found, known)
    return ChosenRevisions(args, model, model.hub, tuple(found))


def _check_duplicates(
    args: argparse.Namespace, repository: str, found: Sequence[Revision], known: Sequence[str]
) -> None:
    main = next((revision for revision in found if revision.name == MAIN), None)
    if main is None and MAIN in known:
        try:
            (main,) = revisions.look_up_revisions(repository, [MAIN])
        except NetworkError as error:
            if error.code != "not_found":
                raise
            log.debug(f"{MAIN} cannot be compared: {error.message}")
    last = revisions.last_step(known)
    groups = revisions.find_duplicates(found, main, last)
    for group in groups:
        log.warning(f"the same weights as {group[0]}: {', '.join(group[1:])}")
    count = sum(len(group) - 1 for group in groups)
    if groups and not args.allow_duplicates:
        raise CheckpointError(
            f"{count} of {counted(len(found), 'revision')} of {repository} "
            f"{'has' if count == 1 else 'have'} the weights of another, by the hub's checksums; nothing was run",
            code="duplicate_revisions",
            hint="Tell the owner of the repository. Leave them out of --revisions, or run them all the same with "
            "--allow-duplicates.",
        )


def _model(args: argparse.Namespace, catalog: Catalog) -> Model:
    """The model of --repo, or the one that a configuration on the command line is named after."""
    if args.repo is not None:
        return catalog.model(args.repo)
    names = {name.casefold(): model for name, model in catalog.models.items()}
    sources = args.config or [DEFAULT_MODEL]
    for source in sources:
        if model := names.get(bare_name(Path(source)).casefold()):
            return model
    raise UsageError(
        f"which repository has the revisions of {', '.join(sources)} is not known",
        code="missing_option",
        hint="Name it with --repo OWNER/NAME.",
    )


def _sources(args: argparse.Namespace, model: Model) -> list[str]:
    """The configurations on the command line, or the one that the repository's model has."""
    if args.config:
        return list(args.config)
    if model.config is None:
        raise UsageError(
            f"no configuration of {model.name} is known",
            code="incomplete_configuration",
            hint="Name one before the options: a YAML file, or the folder of one revision that was downloaded.",
        )
    return [model.config]
