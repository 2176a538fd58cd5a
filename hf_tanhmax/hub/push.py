"""`push`: publishes a checkpoint or a run's folder on the Hub, in one commit."""

import re
import sys
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi, ModelInfo
from huggingface_hub.errors import RemoteEntryNotFoundError, RevisionNotFoundError
from huggingface_hub.utils import tqdm
from safetensors import SafetensorError

from ..checkpoint import ADAPTER_CONFIG, BASE, CONFIG, Checkpoint, CheckpointError, read_checkpoint
from ..choices import check_repository, usable_token
from ..errors import first_line
from ..models.architectures import upstream_type
from .documents import CARD
from .errors import HubError, in_a_sentence
from .staging import DOCUMENTS, PROCESSOR, copy, files_of, is_adapter, left_behind, pin_base, read_json, stage_adapter, stage_model, stale


def push(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    token: str | None = None,
    message: str | None = None,
    merge: bool = False,
    create: bool = True,
) -> str:
    """Publish a TanhMax checkpoint: its weights as safetensors, config, tokenizer or processor, code file, card and results.

    All of it arrives in one commit, or nothing does; a push that was interrupted is completed by the next, and one that changes nothing
    makes no commit. A PEFT adapter needs its base: a base on this machine goes to the repository `REPO_ID-base` first, and the adapter
    names that commit. Nothing else in a run's folder is published: no training state, no pickles, no logs.

    Args:
        folder: the output folder of a run, or what `save_pretrained` wrote.
        repo_id: `owner/name`, or a name under the token's own account.
        private: None makes a new repository as the account's settings say, and takes an existing one as it is.
        revision: a branch; None is `main`.
        token: None takes HF_TOKEN, or what `hf auth login` stored.
        message: the title of the commit.
        merge: publish adapter and base as one model.
        create: make the repository and the branch if they do not exist.

    Returns:
        The address of the commit.

    Raises:
        HubError: what the user can mend, in one sentence.
    """
    folder = Path(folder)
    adapter = is_adapter(folder)
    if merge and not adapter:
        raise HubError(f"{folder} holds no adapter ({ADAPTER_CONFIG}), so there is nothing to merge: leave `merge` off")
    if revision is not None and re.fullmatch(r"[0-9a-f]{40}", revision):
        raise HubError(f"{revision} is a commit, which cannot be added to: name a branch")
    token = usable_token(token)
    api = HfApi(token=token, library_name="hf-tanhmax")
    repo_id = full_name(api, repo_id)
    publisher = Publisher(api, token, private, message or "Publish with hf_tanhmax", create)
    with TemporaryDirectory(prefix="hf-tanhmax-") as scratch:
        if not adapter:
            return publisher.send_model(folder, Path(scratch), repo_id, revision)
        base = find_base(folder, api)
        if not merge:
            return publisher.send_adapter(folder, base, Path(scratch), repo_id, revision)
        merged, staged = Path(scratch, "merged"), Path(scratch, "staged")
        say(f"merging {folder} with {base.name}")
        save_merged(folder, base, merged, token=token)
        staged.mkdir()
        return publisher.send_model(merged, staged, repo_id, revision)


def check_login(repo_id: str, *, token: str | None = None) -> str:
    """The full name of the repository that `push` would write to, found out before there is anything to push.

    Args:
        repo_id: as for `push`.
        token: as for `push`.

    Raises:
        HubError: not the name of a repository, no login, or a token that the Hub does not know.
    """
    return full_name(HfApi(token=usable_token(token)), repo_id)


def find_base(folder: Path, api: HfApi) -> Checkpoint:
    """The base of an adapter: the folder `base` in it, another folder that it names, or a repository.

    Args:
        folder: the adapter.
        api: asked for the config of a base on the Hub.

    Raises:
        HubError: it is nowhere, or a softmax model.
    """
    try:
        adapter = read_checkpoint(folder)
    except CheckpointError as error:
        raise HubError(f"{error}: save the checkpoint anew") from error
    base, name = adapter.base, adapter.base_name
    if base is None or (base.file(CONFIG) is None and (base.is_local or Path(base.name).is_absolute() or base.name.count("/") > 1)):
        raise HubError(f"the base model of {folder} is not at {name}: save it with save_pretrained in {folder / BASE}")
    config = base.file(CONFIG) if base.is_local else None
    with in_a_sentence(base.name):
        try:
            config = config or Path(api.hf_hub_download(base.name, CONFIG, revision=base.revision))
        except RemoteEntryNotFoundError as error:
            raise HubError(f"the base of {folder}, {name}, holds no model (no {CONFIG}): name the one that it was trained on") from error
    kind = read_json(config).get("model_type")
    if upstream_type(kind) is None:
        raise HubError(
            f"the base of {folder}, {base.name}, is no TanhMax model (model type {kind!r}), so the adapter would be loaded on softmax: "
            f"save the model that it was trained on in {folder / BASE}"
        )
    return base


def save_merged(folder: Path, base: Checkpoint, into: Path, *, token: str) -> None:
    """Save the base with the adapter's changes in its weights, and what the adapter has beside it except its card.

    Raises:
        HubError: PEFT is missing, or the adapter does not fit its base.
    """
    try:
        from peft import PeftModel
    except ImportError as error:
        raise HubError("merging an adapter needs PEFT: pip install peft") from error
    try:
        model = base.load(base.model_class, token=None if base.is_local else token)
    except (OSError, ValueError) as error:
        raise HubError(f"cannot load the base {base.name}: {first_line(error)}") from error
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*missing adapter keys")
        try:
            adapted = PeftModel.from_pretrained(model, str(folder))
        except (UserWarning, RuntimeError, ValueError, SafetensorError) as error:
            reason = first_line(error)
            raise HubError(f"the adapter in {folder} does not fit {base.name} ({reason}): name the base that it was trained on") from error
    merge = getattr(adapted, "merge_and_unload", None)
    if merge is None:
        kind = read_json(folder / ADAPTER_CONFIG).get("peft_type")
        raise HubError(f"{folder} is of type {kind}, which cannot be merged into weights: leave `merge` off")
    merge().save_pretrained(into)
    copy(folder, into, set(PROCESSOR) | (set(DOCUMENTS) - {CARD}))


@dataclass(frozen=True)
class Publisher:
    """One push: who pushes, and how.

    Attributes:
        api: of the Hub.
        token: of who pushes, which must not be published.
        private: None makes a new repository as the account's settings say.
        message: the title of commits.
        create: make the repository and the branch if they do not exist.
        repo_type: what kind of repository it is.
    """

    api: HfApi
    token: str
    private: bool | None
    message: str
    create: bool
    repo_type: Literal["model", "kernel"] = "model"

    def send_model(self, folder: Path, staged: Path, repo_id: str, revision: str | None) -> str:
        """Check and publish one model; the address of the commit."""
        say(f"checking {folder}")
        _say_all("may surprise", stage_model(folder, staged, repo_id=repo_id, secrets=[self.token]))
        _say_all("not published", [", ".join(left_behind(folder, staged))])
        return self._commit(staged, repo_id, revision, self.prepare(repo_id, revision, self.private)).commit_url

    def send_adapter(self, folder: Path, base: Checkpoint, scratch: Path, repo_id: str, revision: str | None) -> str:
        """Both are checked before anything is sent, and the base arrives before what names it."""
        base_id = f"{repo_id}-base" if base.is_local else base.name
        staged, staged_base = scratch / "adapter", scratch / "base"
        staged.mkdir()
        staged_base.mkdir()
        say(f"checking {folder}")
        if base.is_local:
            _say_all("may surprise", stage_model(Path(base.name), staged_base, repo_id=base_id, secrets=[self.token]))
        at = staged_base if base.is_local else None
        _say_all("may surprise", stage_adapter(folder, staged, repo_id=repo_id, base_id=base_id, base=at, secrets=[self.token]))
        _say_all("not published", [", ".join(name for name in left_behind(folder, staged) if name != BASE)])
        info = self.prepare(repo_id, revision, self.private)
        if base.is_local:
            base_info = self.prepare(base_id, None, info.private)
            pin_base(staged, self._commit(staged_base, base_id, None, base_info).oid)
        return self._commit(staged, repo_id, revision, info).commit_url

    def prepare(self, repo_id: str, revision: str | None, private: bool | None) -> ModelInfo:
        """Make what does not exist, and look at what does."""
        kind: dict[str, Any] = {"repo_type": self.repo_type}
        look: Any = partial(self.api.repo_info, repo_id, **kind)
        with in_a_sentence(repo_id):
            if self.create:
                self.api.create_repo(repo_id, private=private, exist_ok=True, **kind)
            info = look()
            if self.private is not None and info.private != self.private:
                said = "private" if info.private else "public"
                raise HubError(f"{repo_id} exists and is {said}: change that at {self.address(repo_id)}/settings, or do not ask for it")
            if revision is None:
                return info
            try:
                return look(revision=revision)
            except RevisionNotFoundError:
                if not self.create:
                    raise
            self.api.create_branch(repo_id, branch=revision, **kind)
            return look(revision=revision)

    def published(self, repo_id: str, commit: str | None) -> list[str]:
        """Paths of the files that a repository holds."""
        with in_a_sentence(repo_id):
            return self.api.list_repo_files(repo_id, revision=commit, repo_type=self.repo_type)

    def commit(self, staged: Path, repo_id: str, revision: str | None, info: ModelInfo, old: Iterable[str]) -> CommitInfo:
        """Publish a staged folder in one commit, and delete old files with it.

        `upload_folder` would send large folders in several commits, the first of which could already be loaded.
        """
        files = dict(files_of(staged))
        say(f"publishing {_summary(files)} to {self.address(repo_id)}")
        with in_a_sentence(repo_id):
            found = self.api.create_commit(
                repo_id,
                [CommitOperationAdd(name, path) for name, path in files.items()] + [CommitOperationDelete(name) for name in sorted(old)],
                commit_message=self.message,
                revision=revision,
                parent_commit=info.sha,
                repo_type=self.repo_type,
            )
        say(f"nothing has changed since {found.commit_url}" if found.oid == info.sha else f"published: {found.commit_url}")
        return found

    def address(self, repo_id: str) -> str:
        """Where a browser finds a repository."""
        return f"{self.api.endpoint}/{'' if self.repo_type == 'model' else f'{self.repo_type}s/'}{repo_id}"

    def _commit(self, staged: Path, repo_id: str, revision: str | None, info: ModelInfo) -> CommitInfo:
        old = stale((sibling.rfilename for sibling in info.siblings or ()), dict(files_of(staged)))
        return self.commit(staged, repo_id, revision, info, old)


def full_name(api: HfApi, repo_id: str) -> str:
    """A name of a repository with its owner, who is by default whom the token belongs to.

    Raises:
        HubError: no repository can have it, or a token that the Hub does not know.
    """
    check_repository(repo_id)
    with in_a_sentence(repo_id):
        owner = api.whoami()["name"]
    return repo_id if "/" in repo_id else f"{owner}/{repo_id}"


def _summary(files: dict[str, Path]) -> str:
    size = sum(path.stat().st_size for path in files.values())
    return f"{len(files)} files ({size / 1e6:,.1f} MB)"


def _say_all(what: str, sentences: Iterable[str]) -> None:
    for sentence in filter(None, sentences):
        say(f"{what}: {sentence}")


def say(sentence: str) -> None:
    """Print what is done, beside a progress bar."""
    tqdm.write(sentence, file=sys.stderr)
