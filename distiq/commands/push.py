"""push(bundle, repository): a bundle on the Hugging Face hub."""

from pathlib import Path

from distiq.bundle.open import CARD, Bundle
from distiq.bundle.write import README, WEB
from distiq.errors import UserError
from distiq.records.documents import PushedFile, PushRecord


def push(bundle: Path, repository: str, *, private: bool = False, dry_run: bool = False) -> PushRecord:
    """Sends a bundle's own files, in one commit; the repository is created if it does not exist.

    The token is that of `hf auth login` or HF_TOKEN; HF_ENDPOINT names another hub.

    Args:
        repository: such as "me/shoes".
        private: whether a repository that is created is private.
        dry_run: report what would be sent without contacting the hub.

    Raises:
        UserError: the bundle is incomplete, the repository's name is invalid, or the hub refuses or does not answer.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise UserError(f"{repository}: no name of a repository ({error}); write user/name") from error
    opened = Bundle(bundle)
    page = [str(file.relative_to(opened.folder)) for file in (opened.folder / WEB).rglob("*") if file.is_file()]
    names = sorted({*opened.card["sha256"], CARD, README, *page})
    if missing := [name for name in names if not (opened.folder / name).is_file()]:
        raise UserError(f"{opened.folder / missing[0]}: missing; make the bundle again with distiq run")
    files = tuple(PushedFile(name=name, size_bytes=(opened.folder / name).stat().st_size) for name in names)
    if dry_run:
        return PushRecord(repository=repository, dry_run=True, files=files, url="")
    api = HfApi()
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repository, folder_path=opened.folder, allow_patterns=names,
            commit_message=f"{opened.card['name']}, made by distiq",
        )  # fmt: skip
    except Exception as error:  # the network and the hub raise exception types of their own
        told = " ".join(str(error).split())[:300]
        raise UserError(
            f"{repository}: the hub did not take it ({told}); `hf auth login` or HF_TOKEN says who you are"
        ) from error
    return PushRecord(repository=repository, dry_run=False, files=files, url=str(commit.commit_url))
