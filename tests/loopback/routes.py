"""The Hub's HTTP interface, as far as models need it: which request does what, and what it answers. No sockets here.

Publishing: `POST /api/repos/create`, `/api/models/REPO/preupload/REVISION`, `/REPO.git/info/lfs/objects/batch`, `PUT` of each large
file to where the batch says, `POST` to verify it, `POST /api/models/REPO/commit/REVISION`. Loading: `GET /api/models/REPO`, then
`HEAD` and `GET` of `/REPO/resolve/REVISION/FILE`.

Repositories of kernels are answered as those of models are: `/api/kernels/REPO/...` and `/kernels/REPO/resolve/...`, by the name
`kernels/REPO`; and those of data sets likewise, by the name `datasets/REPO`.
"""

import base64
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote

from .faults import Faults
from .repositories import LARGE, Account, Blob, Files, RefusalError, Repository, Store

REPO = r"(?P<repo>(?:(?:kernels|datasets)/)?[^/]+/[^/]+?)"
REVISION = r"(?P<revision>[^/]+)"


@dataclass(frozen=True)
class Request:
    """What arrived, with the account that its token belongs to; the path is quoted, as a branch may hold a slash."""

    method: str
    path: str
    query: dict[str, str]
    headers: Any
    body: bytes
    account: Account | None
    base: str

    def json(self) -> Any:
        return json.loads(self.body or b"{}")


@dataclass(frozen=True)
class Answer:
    """What goes back; a body that is not bytes is sent as JSON."""

    body: Any = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


Route = Callable[..., Answer]
ROUTES: list[tuple[str, re.Pattern, Route]] = []


def route(methods: str, pattern: str) -> Callable[[Route], Route]:
    def register(function: Route) -> Route:
        ROUTES.extend((method, re.compile(pattern), function) for method in methods.split())
        return function

    return register


def answer(store: Store, faults: Faults, request: Request) -> Answer:
    """The answer of the first route that fits."""
    path = re.sub("^/api/(kernels|datasets)/", r"/api/models/\1/", request.path)
    for method, pattern, function in ROUTES:
        if method == request.method and (found := pattern.fullmatch(path)):
            parts = {name: value and unquote(value) for name, value in found.groupdict().items()}
            return function(store, faults, request, **parts)
    raise RefusalError(404, None, f"the loopback Hub has no route for {request.method} {request.path}")


@route("GET", "/api/whoami-v2")
def whoami(store: Store, faults: Faults, request: Request) -> Answer:
    if request.account is None:
        raise RefusalError(401, None, "Invalid username or password.")
    token = {"displayName": "loopback", "role": request.account.role}
    return Answer({"type": "user", "name": request.account.name, "orgs": [], "auth": {"type": "access_token", "accessToken": token}})


@route("GET", "/api/organizations/(?P<name>[^/]+)/overview")
def organization(store: Store, faults: Faults, request: Request, name: str) -> Answer:
    """The `kernels` package asks whether it may trust a publisher; on the real Hub there are few."""
    return Answer({"name": name, "fullname": name, "trustedKernelPublisher": False})


@route("POST", "/api/repos/create")
def create(store: Store, faults: Faults, request: Request) -> Answer:
    wanted = request.json()
    namespace = wanted.get("organization") or (request.account.name if request.account else "")
    repo_id = f"{'kernels/' if wanted.get('type') == 'kernel' else ''}{namespace}/{wanted['name']}"
    found = {"url": f"{request.base}/{repo_id}", "name": repo_id, "id": repo_id}
    try:
        store.create(request.account, repo_id, private=wanted.get("visibility") == "private")
    except RefusalError as refusal:
        if refusal.status != 409:
            raise
        return Answer({**found, "error": refusal.message}, 409)
    return Answer(found)


@route("POST", "/api/validate-yaml")
def validate(store: Store, faults: Faults, request: Request) -> Answer:
    """The real Hub reads the metadata; this one sees only whether they end, and whether a base model could be a repository."""
    header = re.match(r"---\n(.*?)^---$", request.json()["content"], re.DOTALL | re.MULTILINE)
    errors = [] if header else [{"message": "the metadata do not end"}]
    base = re.search(r"^base_model:\s*(\S+)", header[1], re.MULTILINE) if header else None
    if base and not re.fullmatch(r"[\w.-]+/[\w.-]+", base[1]):
        errors.append({"message": '"base_model" with value "' + base[1] + '" is not valid'})
    return Answer({"errors": errors, "warnings": []}, 400 if errors else 200)


@route("POST", f"/api/models/{REPO}/preupload/{REVISION}")
def preupload(store: Store, faults: Faults, request: Request, repo: str, revision: str) -> Answer:
    _, files = store.writable(request.account, repo).resolve(revision)

    def _advice(file: dict[str, Any]) -> dict[str, Any]:
        path, known = file["path"], files.get(file["path"])
        mode = "lfs" if path.endswith(LARGE) else "regular"
        return {"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": known.oid if known else None}

    return Answer({"files": [_advice(file) for file in request.json()["files"]]})


@route("POST", rf"/{REPO}\.git/info/lfs/objects/batch")
def batch(store: Store, faults: Faults, request: Request, repo: str) -> Answer:
    store.writable(request.account, repo)

    def _instructions(wanted: dict[str, Any]) -> dict[str, Any]:
        found = {"oid": wanted["oid"], "size": wanted["size"]}
        if wanted["oid"] in store.large:
            return found
        places = {"upload": f"{request.base}/_large/{wanted['oid']}", "verify": f"{request.base}/{repo}/_verify"}
        return {**found, "actions": {name: {"href": href} for name, href in places.items()}}

    objects = [_instructions(wanted) for wanted in request.json()["objects"]]
    return Answer({"transfer": "basic", "objects": objects}, headers={"Content-Type": "application/vnd.git-lfs+json"})


@route("PUT", "/_large/(?P<oid>[0-9a-f]{64})")
def upload(store: Store, faults: Faults, request: Request, oid: str) -> Answer:
    """On the real Hub another service takes the file, at an address that is its own permission."""
    if request.headers.get("Authorization"):
        raise RefusalError(400, None, "a token was sent to the storage of large files")
    store.receive(oid, request.body)
    return Answer()


@route("POST", f"/{REPO}/_verify")
def verify(store: Store, faults: Faults, request: Request, repo: str) -> Answer:
    store.writable(request.account, repo)
    wanted = request.json()
    if len(store.large.get(wanted["oid"], b"")) != wanted["size"]:
        raise RefusalError(404, None, "The file was not uploaded, or not all of it")
    return Answer({})


@route("POST", f"/api/models/{REPO}/branch/{REVISION}")
def branch(store: Store, faults: Faults, request: Request, repo: str, revision: str) -> Answer:
    store.writable(request.account, repo).branch(revision, request.json().get("startingPoint", "main"))
    return Answer({})


@route("POST", f"/api/models/{REPO}/commit/{REVISION}")
def commit(store: Store, faults: Faults, request: Request, repo: str, revision: str) -> Answer:
    repository = store.writable(request.account, repo)
    if (status := faults.take("refuse_commit")) is not None:
        raise RefusalError(status, None, "the next commit was to be refused")
    if (files := faults.take("meanwhile")) is not None:
        additions = {path: Blob(content, large=False) for path, content in files.items()}
        repository.commit(revision, repository.resolve(revision)[1] | additions, "by somebody else")
    if revision not in repository.branches:
        raise RefusalError(404, "RevisionNotFound", f"Invalid rev id: {revision}")
    operations = [json.loads(line) for line in request.body.splitlines() if line]
    header = next(item["value"] for item in operations if item["key"] == "header")
    head, files = repository.resolve(revision)
    if header.get("parentCommit", head) != head:
        raise RefusalError(412, None, "A commit has happened since. Please refresh and try again.")
    for operation in operations:
        files = _applied(store, files, operation["key"], operation["value"])
    sha = repository.commit(revision, files, header["summary"])
    found = {"success": True, "commitOid": sha, "commitUrl": f"{request.base}/{repo}/commit/{sha}", "hookOutput": ""}
    return Answer(found)


def _applied(store: Store, files: Files, key: str, value: dict[str, Any]) -> Files:
    if key == "header":
        return files
    path = value["path"]
    if key == "file":
        return {**files, path: Blob(base64.b64decode(value["content"]), large=False)}
    if key == "lfsFile":
        if value["oid"] not in store.large:
            raise RefusalError(400, None, f"{path} points to a large file that was not uploaded")
        return {**files, path: Blob(store.large[value["oid"]], large=True)}
    if key == "deletedFile" and path in files:
        return {name: blob for name, blob in files.items() if name != path}
    if key == "deletedFolder":
        return {name: blob for name, blob in files.items() if not name.startswith(path.rstrip("/") + "/")}
    raise RefusalError(400, None, f"cannot do {key} with {path}")


@route("GET", f"/api/models/{REPO}/tree/{REVISION}(?:/(?P<folder>.*))?")
def tree(store: Store, faults: Faults, request: Request, repo: str, revision: str, folder: str | None) -> Answer:
    _, files = store.readable(request.account, repo).resolve(revision)
    start = f"{folder}/" if folder else ""
    inside = {path: blob for path, blob in sorted(files.items()) if path.startswith(start)}
    if folder and not inside:
        raise RefusalError(404, "EntryNotFound", f"{folder} does not exist on {revision}")
    entries = [_entry(path, blob) for path, blob in inside.items()]
    if request.query.get("recursive", "").lower() not in ("true", "1"):
        folders = {start + path[len(start) :].split("/")[0] for path in inside if "/" in path[len(start) :]}
        entries = [entry for entry in entries if "/" not in entry["path"][len(start) :]]
        entries += [{"type": "directory", "path": path, "oid": "0" * 40, "size": 0} for path in sorted(folders)]
    return Answer(entries)


@route("GET", f"/api/models/{REPO}/refs")
def refs(store: Store, faults: Faults, request: Request, repo: str) -> Answer:
    branches = store.readable(request.account, repo).branches
    found = [{"name": name, "ref": f"refs/heads/{name}", "targetCommit": sha} for name, sha in branches.items()]
    return Answer({"branches": found, "tags": [], "converts": []})


@route("POST", f"/api/models/{REPO}/paths-info/{REVISION}")
def paths_info(store: Store, faults: Faults, request: Request, repo: str, revision: str) -> Answer:
    _, files = store.readable(request.account, repo).resolve(revision)
    wanted = [value for name, value in parse_qsl(request.body.decode()) if name == "paths"]
    return Answer([_entry(path, files[path]) for path in wanted if path in files])


def _entry(path: str, blob: Blob) -> dict[str, Any]:
    size = len(blob.content)
    large = {"lfs": {"oid": blob.sha256, "size": size, "pointerSize": 128}} if blob.large else {}
    return {"type": "file", "path": path, "oid": blob.oid, "size": size, **large}


@route("GET", f"/api/models/{REPO}(?:/revision/{REVISION})?")
def info(store: Store, faults: Faults, request: Request, repo: str, revision: str | None) -> Answer:
    repository = store.readable(request.account, repo)
    sha, files = repository.resolve(revision or "main")
    names = [{"rfilename": path} for path in sorted(files)]
    name = re.sub("^(kernels|datasets)/", "", repo)
    found = {"_id": "0", "id": name, "modelId": name, "sha": sha, "private": repository.private, "tags": [], "downloads": 0, "likes": 0}
    return Answer({**found, "siblings": names}, headers={"X-Repo-Commit": sha})


@route("GET HEAD", f"/{REPO}/resolve/{REVISION}/(?P<path>.+)")
def resolve(store: Store, faults: Faults, request: Request, repo: str, revision: str, path: str) -> Answer:
    sha, blob = _file(store.readable(request.account, repo), revision, path)
    headers = {"X-Repo-Commit": sha, "ETag": f'"{blob.oid}"', "Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
    wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range") or "")
    if wanted is None:
        return Answer(blob.content, headers=headers)
    first, last = int(wanted[1]), int(wanted[2] or len(blob.content) - 1)
    headers["Content-Range"] = f"bytes {first}-{last}/{len(blob.content)}"
    return Answer(blob.content[first : last + 1], 206, headers)


def _file(repository: Repository, revision: str, path: str) -> tuple[str, Blob]:
    sha, files = repository.resolve(revision)
    if path not in files:
        raise RefusalError(404, "EntryNotFound", "Entry not found")
    return sha, files[path]
