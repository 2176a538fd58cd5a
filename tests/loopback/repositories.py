"""What a Hub knows: who may do what, repositories with branches and commits, and the large files that were uploaded. No HTTP here."""

import hashlib
import json
from dataclasses import dataclass, field

LARGE = (".safetensors", ".bin", ".pt", ".pth", ".png")


class RefusalError(Exception):
    """A request that the Hub refuses: status, `X-Error-Code` (or None) and message."""

    def __init__(self, status: int, code: str | None, message: str):
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


@dataclass(frozen=True)
class Account:
    """Who a token belongs to. A token with the role "read" cannot write, not even to its owner's repositories."""

    name: str
    role: str = "write"

    def may_write_to(self, repo_id: str) -> bool:
        return self.role == "write" and self.owns(repo_id)

    def owns(self, repo_id: str) -> bool:
        return repo_id.removeprefix("kernels/").split("/")[0] == self.name


@dataclass(frozen=True)
class Blob:
    """The contents of a file, and whether they are a large file (LFS)."""

    content: bytes
    large: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def oid(self) -> str:
        """As git counts small files, and as LFS counts large ones."""
        return self.sha256 if self.large else hashlib.sha1(b"blob %d\0" % len(self.content) + self.content).hexdigest()


Files = dict[str, Blob]


@dataclass
class Repository:
    """Commits by their hash, and branches that point at them."""

    repo_id: str
    private: bool = False
    commits: dict[str, Files] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    titles: list[str] = field(default_factory=list)

    def __post_init__(self):
        self.commit("main", {".gitattributes": Blob(b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n", large=False)}, "initial commit")

    def commit(self, branch: str, files: Files, title: str) -> str:
        names = {path: blob.oid for path, blob in sorted(files.items())}
        sha = hashlib.sha1(json.dumps([self.repo_id, title, len(self.commits), names]).encode()).hexdigest()
        self.commits[sha], self.branches[branch] = files, sha
        self.titles.append(title)
        return sha

    def resolve(self, revision: str) -> tuple[str, Files]:
        """Commit hash and files of a branch or of a commit hash."""
        sha = self.branches.get(revision, revision)
        if sha not in self.commits:
            raise RefusalError(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return sha, self.commits[sha]

    def branch(self, name: str, start: str) -> None:
        if name.startswith("refs/"):
            raise RefusalError(400, None, f"Invalid reference for a branch: {name}")
        if name in self.branches:
            raise RefusalError(409, None, f"Reference already exists: {name}")
        self.branches[name] = self.resolve(start)[0]


class Store:
    """All repositories, large files and accounts."""

    def __init__(self, accounts: dict[str, Account]):
        self.accounts = accounts
        self.repositories: dict[str, Repository] = {}
        self.large: dict[str, bytes] = {}

    def account(self, token: str | None) -> Account | None:
        """Who asks; None for an anonymous request."""
        if token is None:
            return None
        if token not in self.accounts:
            raise RefusalError(401, None, "Invalid credentials in Authorization header")
        return self.accounts[token]

    def create(self, account: Account | None, repo_id: str, *, private: bool) -> Repository:
        if account is None:
            raise RefusalError(401, None, "Invalid username or password.")
        if not account.may_write_to(repo_id):
            raise RefusalError(403, None, f'You don\'t have the rights to create a model under the namespace "{repo_id.split("/")[0]}"')
        if repo_id in self.repositories:
            raise RefusalError(409, None, f"You already created this model repo: {repo_id}")
        self.repositories[repo_id] = Repository(repo_id, private)
        return self.repositories[repo_id]

    def readable(self, account: Account | None, repo_id: str) -> Repository:
        """A repository that the account may see; what it may not see does not exist for it."""
        found = self.repositories.get(repo_id)
        if found is not None and (not found.private or (account is not None and account.owns(repo_id))):
            return found
        if account is None:
            raise RefusalError(401, "RepoNotFound", "Invalid username or password.")
        raise RefusalError(404, "RepoNotFound", "Repository not found")

    def writable(self, account: Account | None, repo_id: str) -> Repository:
        found = self.readable(account, repo_id)
        if account is None:
            raise RefusalError(401, None, "Invalid username or password.")
        if not account.may_write_to(repo_id):
            raise RefusalError(403, None, "Forbidden: you must use a write token of somebody who may write to this repository")
        return found

    def receive(self, oid: str, content: bytes) -> None:
        """Keep a large file, if it is the one that was announced."""
        if hashlib.sha256(content).hexdigest() != oid:
            raise RefusalError(400, None, "The uploaded file does not have the announced sha256")
        self.large[oid] = content
