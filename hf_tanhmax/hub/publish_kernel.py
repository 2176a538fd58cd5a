"""`push_kernel`: publishes a kernel repository; `verify_kernel`: the commit of one whose files are what this package writes."""

from pathlib import Path
from tempfile import TemporaryDirectory

import huggingface_hub
from huggingface_hub import HfApi
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError
from packaging.version import Version

from ..choices import check_repository, usable_token
from .errors import HubError, in_a_sentence
from .kernel import BRANCH, KERNEL_FILE, builds_in, check_kernel, is_own, write_kernel
from .push import Publisher, full_name, say

OLDEST_HUB = "2.3"  # whose commits may be of a kernel


def push_kernel(
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    message: str | None = None,
    create: bool = True,
) -> str:
    """Publish TanhMax attention as a kernel repository, which `attn_implementation=repo_id` loads where this package is not installed.

    It arrives on `main`, and then on the branch `v1`, which Transformers loads; on each in one commit, or not at all.

    Args:
        repo_id: `owner/name`, or a name under the token's own account.
        private: None makes a new repository as the account's settings say, and takes an existing one as it is.
        token: None takes HF_TOKEN, or what `hf auth login` stored.
        message: the title of the commits.
        create: make the repository and the branch if they do not exist.

    Returns:
        The address of the commit on `v1`, whose hash pins the kernel: `attn_implementation="owner/name@HASH"`.

    Raises:
        HubError: what the user can mend, in one sentence, such as a `huggingface_hub` that is too old, or a repository that holds a kernel
            of somebody else.
    """
    if Version(huggingface_hub.__version__) < Version(OLDEST_HUB):
        have = huggingface_hub.__version__
        raise HubError(f'huggingface_hub {have} cannot publish kernels: pip install "huggingface_hub>={OLDEST_HUB}"')
    token = usable_token(token)
    api = HfApi(token=token, library_name="hf-tanhmax")
    repo_id = full_name(api, repo_id)
    publisher = Publisher(api, token, private, message or "Publish a kernel with hf_tanhmax", create, repo_type="kernel")
    with TemporaryDirectory(prefix="hf-tanhmax-") as scratch:
        staged = Path(scratch, "staged")
        staged.mkdir()
        write_kernel(staged, repo_id=repo_id)
        _refuse_another(api, repo_id)
        for revision in (None, BRANCH):
            info = publisher.prepare(repo_id, revision, private)
            old = [path for path in publisher.published(repo_id, info.sha) if path.startswith("build/") and not (staged / path).exists()]
            found = publisher.commit(staged, repo_id, revision, info, old)
    say(f'load it with attn_implementation="{repo_id}", allow_all_kernels=True, or pin it: "{repo_id}@{found.oid}"')
    return found.commit_url


def verify_kernel(repo_id: str, *, revision: str = BRANCH, token: str | None = None) -> str:
    """The commit of a kernel repository, if each of its builds is exactly what this version of hf_tanhmax writes. Nothing of it is run.

    Args:
        repo_id: `owner/name`.
        revision: a branch, a tag or a commit.
        token: None takes HF_TOKEN, or what `hf auth login` stored, if there is one.

    Returns:
        The hash of the commit, which pins what was verified: `attn_implementation=f"{repo_id}@{commit}"`.

    Raises:
        HubError: a build without our digests, or that differs from them or from what this version writes; or what the Hub refuses.
    """
    check_repository(repo_id)
    api = HfApi(token=token, library_name="hf-tanhmax")
    with TemporaryDirectory(prefix="hf-tanhmax-") as scratch:
        with in_a_sentence(repo_id):
            commit = str(api.repo_info(repo_id, repo_type="kernel", revision=revision).sha)
            api.snapshot_download(repo_id, repo_type="kernel", revision=commit, allow_patterns="build/*", local_dir=scratch)
        findings = check_kernel(Path(scratch))
    if not findings:
        raise HubError(f"{repo_id} holds no kernel at {revision}: publish one with `hf-tanhmax push-kernel {repo_id}`")
    wrong = [finding for finding in findings if finding.level != "ok"]
    if wrong:
        raise HubError(
            f"{repo_id} at {revision} is not what this version writes: " + "; ".join(f"{each.subject} {each.sentence}" for each in wrong)
        )
    return commit


def _refuse_another(api: HfApi, repo_id: str) -> None:
    """Refuse a repository with a kernel that this package did not write; one of ours that was altered is replaced."""
    for revision in ("main", BRANCH):
        with in_a_sentence(repo_id):
            try:
                paths = api.list_repo_files(repo_id, repo_type="kernel", revision=revision)
            except (RepositoryNotFoundError, RevisionNotFoundError):  # which is made
                continue
            for build in builds_in(paths):
                name = f"build/{build}/{KERNEL_FILE}"
                if name in paths and is_own(Path(api.hf_hub_download(repo_id, name, repo_type="kernel", revision=revision))):
                    continue
                raise HubError(
                    f"{repo_id} holds a kernel that hf-tanhmax did not write (build/{build} at {revision}): take another name, or delete "
                    "it there"
                )
