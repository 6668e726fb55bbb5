"""What a service knows of the models that its lineages begin with, and where their weights come from.

What a model takes and tells apart is stated, or declared of the recipe's dataset by name, so that nothing is
asked of any data where a given model serves requests that declare none. Data are looked for where something
needs them: a method, the training of an original, the audit, a dataset of which nothing is declared.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from rayunlearn.auditing.training import (
    describe,
    not_at_hand,
    train_logged_original,
    train_original,
    training_job,
)
from rayunlearn.errors import BadInput
from rayunlearn.ledger.ledger import LedgerReader
from rayunlearn.ledger.lineage import versions
from rayunlearn.lineages.context import Context
from rayunlearn.lineages.fixed_settings import differing
from rayunlearn.lineages.requested import stated_data
from rayunlearn.methods.catalogue import OF_THE_DATA
from rayunlearn.methods.registry import METHODS, method_named
from rayunlearn.models.adapted import Adapted
from rayunlearn.models.checkpoints import load_checkpoint
from rayunlearn.models.classifiers import ClassifierSpec, build_classifier
from rayunlearn.models.weights import Weights, version_id
from rayunlearn.recipes import DataSettings
from rayunlearn.reports.wording import numbered
from rayunlearn.seeds import derive_seed
from rayunlearn.serving.training_logs import keep_log


class Originals:
    """The models that lineages of a service begin with.

    Args:
        context: of the service.
        reader: of its ledger.
        threads: torch threads of a process that trains.
        checkpoint: file with an original's weights; None trains one where a lineage has none.
        checkpoint_key: where in the file they are, if it holds several state dicts.
        generator: whether a generator is given that was trained elsewhere.

    Attributes:
        spec: of the original.
        data_hash: of the dataset's samples and their split; None where nobody has looked.
        no_data: why the dataset cannot be used, where it was looked for in vain.

    Raises:
        BadInput: the weights do not fit, or data are needed and not there.
    """

    spec: ClassifierSpec

    def __init__(
        self,
        context: Context,
        reader: LedgerReader,
        *,
        threads: int,
        checkpoint: str | Path | None,
        checkpoint_key: str | None = None,
        generator: bool,
    ) -> None:
        self.context, self.reader, self.threads = context, reader, threads
        self._generator = generator
        self.split_seed = derive_seed(context.seed, "split")
        self.data_hash: str | None = None
        self.no_data: str | None = None
        recipe = context.recipe
        self._looked = False
        stated = recipe.model.task or recipe.data.declared
        if stated is not None:
            self.spec = recipe.model.spec(stated, recipe.data.preprocessing)
        self._begun = begun = self._one_that_has_begun()
        self.require_data_of(recipe.method)
        if stated is None:
            self._look_or_take(begun)
        if checkpoint is None and begun is None:
            self._look()
        elif recipe.audit.enabled and self.missing() is not None:
            context.progress.say(f"what is published is not audited: {self.no_data}")
        if told := numbered(self.spec.class_names):
            of = "the model" if recipe.model.class_names else recipe.data.dataset
            context.progress.say(f"classes of {of}: {told}")
        self.given = None if checkpoint is None else self._given(checkpoint, checkpoint_key)

    def missing(self) -> str | None:
        """Why the dataset cannot be used; None where it can, and was looked at."""
        if not self._looked and self.no_data is None:
            self.no_data = self._contradiction() or not_at_hand(self.context.recipe.data)
            if self.no_data is None:
                self._look()
        return self.no_data

    def require_data_of(self, name: str) -> None:
        """Refuse a method that declares data which are not there.

        Raises:
            BadInput: naming the method, what it declares and why that is not there.
        """
        declared = method_named(name).data_access & OF_THE_DATA
        if self._generator:
            declared -= {"pretrained_generator"}
        if declared and (missing := self.missing()) is not None:
            able = ", ".join(m.name for m in METHODS.values() if not m.data_access & OF_THE_DATA)
            says = f"it declares {', '.join(sorted(declared))}, and {missing}"
            allowed = f"one that declares no training data ({able}), or its data: {says}"
            raise BadInput("method", name, allowed)

    def require_given(self, lineages: Collection[str]) -> None:
        """Refuse a given checkpoint that is not the original of one of these lineages that has begun.

        Raises:
            BadInput: naming the checkpoint's model and the lineage's.
        """
        if self.given is None:
            return
        identity = version_id(self.given)
        for lineage in sorted(lineages):
            chain = versions(self.reader, lineage)
            if chain and chain[0].version != identity:
                allowed = (
                    f"the original of lineage {lineage!r}, which is {chain[0].version[:12]}; another model "
                    "takes another lineage or another --storage"
                )
                raise BadInput("--checkpoint", f"model {identity[:12]}", allowed)

    def weights_of(self, lineage: str) -> Weights:
        """Those that a lineage begins with: the given ones, or of a model trained on all classes."""
        if self.given is not None:
            return self.given
        if self.data_hash is None:
            self._look()
        recipe = self.context.recipe
        self.context.progress.phase(f"lineage {lineage}", "train the original")
        recipe = replace(recipe, data=replace(self._data(), sha256=self.data_hash))
        original = training_job(recipe, self.spec, self.context.seed)
        if "training_log" in method_named(recipe.method).data_access:
            weights, log = train_logged_original(original, threads=self.threads)
            keep_log(self.context.store, lineage, log)
        else:
            weights = train_original(original, threads=self.threads)
        self.context.progress.done()
        return weights

    def _one_that_has_begun(self) -> ClassifierSpec | None:
        for row in self.reader.rows("versions", columns=["lineage"]):
            return ClassifierSpec.from_dict(versions(self.reader, row["lineage"])[0].model)
        return None

    def _look_or_take(self, begun: ClassifierSpec | None) -> None:
        """Know the model from the data, of which nothing is declared, or else from a lineage."""
        if begun is not None and not_at_hand(self.context.recipe.data) is not None:
            self.spec = begun
            return
        try:
            self._look()
        except BadInput as error:
            allowed = f"{error.allowed}; without data state --input, --mean, --std and --classes"
            raise BadInput(error.thing, error.value, allowed, where=error.where) from error

    def _look(self) -> None:
        """Open the dataset in another process, for what it is and what its samples hash to.

        Raises:
            BadInput: it is not there, or not what the model takes.
        """
        if (reason := self._contradiction()) is not None:
            allowed = f"what the model takes: {reason}; --checkpoint serves without data"
            raise BadInput("data.dataset", self.context.recipe.data.dataset, allowed)
        recipe = self.context.recipe
        data = self._data()
        self._looked = True
        try:
            found, self.data_hash = describe(data, self.split_seed, self.context.progress.say)
        except BadInput as error:
            if recipe.model.task is None or not error.thing.startswith("names of classes"):
                raise
            of = f"of data.dataset {recipe.data.dataset!r} the {error.thing}"
            self.no_data = f"{of} are {error.value}, and the model has others"
            return
        if recipe.model.task is not None:
            reason = differing(self.spec.task, found)
        elif recipe.data.declared is None:
            self.spec, reason = recipe.model.spec(found, data.preprocessing), None
        else:  # what is declared of it is what it is
            reason = None
        if reason is not None:
            self.no_data, self.data_hash = f"of data.dataset {recipe.data.dataset!r} {reason}", None

    def _data(self) -> DataSettings:
        """The recipe's data; what a lineage has recorded of the preprocessing need not be stated again."""
        data, begun = stated_data(self.context.recipe), self._begun
        if begun is None or begun.preprocessing is None or data.preprocessing is not None:
            return data
        mean, std = (begun.mean, begun.std) if data.mean is None else (data.mean, data.std)
        return replace(data, preprocessing=begun.preprocessing, mean=mean, std=std)

    def _contradiction(self) -> str | None:
        """How what is stated of the model differs from what is declared of the dataset."""
        recipe = self.context.recipe
        stated, declared = recipe.model.task, recipe.data.declared
        reason = None if stated is None or declared is None else differing(stated, declared)
        return None if reason is None else f"of data.dataset {recipe.data.dataset!r} {reason}"

    def _given(self, checkpoint: str | Path, key: str | None) -> Weights:
        model = build_classifier(self.spec, 0)
        # an adapted network's own names are those of its file
        inside = model.net if isinstance(model, Adapted) else model
        _, done = load_checkpoint(checkpoint, inside, key=key)
        if done:
            self.context.progress.say(done)
        return dict(model.state_dict())
