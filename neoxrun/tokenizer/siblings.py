"""What the files next to a tokenizer say, as transformers' ``from_pretrained`` reads them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tokenizers import AddedToken

from neoxrun.config.huggingface import CONFIG_JSON
from neoxrun.config.json_file import read_json_object
from neoxrun.config.tokenizer_names import SIBLINGS, TOKENIZER_CONFIG
from neoxrun.errors import DataError

NAMES: Final = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
"""What transformers calls the special tokens."""

_END: Final = "<|endoftext|>"
_DEFAULT_CLASS: Final = "GPTNeoXTokenizer"
# The names that a class gives where the files do not.
_CLASS_NAMES: Final[Mapping[str, Mapping[str, str]]] = {
    "GPTNeoXTokenizer": {"bos_token": _END, "eos_token": _END, "unk_token": _END, "pad_token": "<|padding|>"},
    "GPT2Tokenizer": {"bos_token": _END, "eos_token": _END, "unk_token": _END},
    "LlamaTokenizer": {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
    "T5Tokenizer": {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"},
}


@dataclass(frozen=True)
class Siblings:
    """The files of a Hugging Face folder that say how a tokenizer is used.

    Attributes:
        folder: where they are.
        class_name: transformers' class, without ``Fast``; ``GPTNeoXTokenizer`` where none is named, as in transformers
            for a GPT-NeoX model.
        options: the keys of tokenizer_config.json, with those of special_tokens_map.json.
        added: tokens that ``added_tokens_decoder`` or added_tokens.json adds, by id.
        replaces: whether ``added`` holds instead of the ``added_tokens`` of tokenizer.json, not besides them.
        named: the special tokens by transformers' names; texts, or what a file says of them.
        extra: further special tokens.
    """

    folder: Path
    class_name: str
    options: Mapping[str, Any]
    added: Mapping[int, AddedToken]
    replaces: bool
    named: Mapping[str, str | AddedToken]
    extra: tuple[str | AddedToken, ...]

    @property
    def names(self) -> dict[str, str]:
        """The texts of the special tokens by transformers' names."""
        return {name: content_of(token) for name, token in self.named.items()}

    @property
    def contents(self) -> set[str]:
        """The texts of all tokens that these files name."""
        added = {str(token.content) for token in self.added.values()}
        return added | set(self.names.values()) | {content_of(token) for token in self.extra}

    def says(self, key: str) -> bool | None:
        """A yes or no of tokenizer_config.json; None where it has none."""
        value = self.options.get(key)
        return value if isinstance(value, bool) else None

    def cleans(self, *, bpe: bool) -> bool:
        """Whether spaces are taken out of decoded text, which transformers does for BPE on special demand only."""
        forced = self.says("clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output")
        return bool(self.says("clean_up_tokenization_spaces") and (not bpe or forced))


def content_of(token: str | AddedToken) -> str:
    """The text of a token."""
    return token if isinstance(token, str) else str(token.content)


def read_siblings(folder: Path) -> Siblings | None:
    """What the files in ``folder`` say; None where it is not a Hugging Face folder.

    Raises:
        DataError: a file is damaged.
    """
    options, special_map, old_added = (_read_object(folder / name) for name in SIBLINGS)
    model = _read_object(folder / CONFIG_JSON) or {}
    if options is special_map is old_added is None and model.get("model_type") is None:
        return None
    try:
        return _siblings(folder, dict(options or {}), special_map or {}, old_added, model)
    except (AttributeError, TypeError, ValueError) as error:
        raise DataError(
            f"the special tokens in {folder} cannot be read: {error}",
            code="bad_tokenizer",
            where=str(folder / TOKENIZER_CONFIG),
            hint="Get the file again from where the model comes from.",
        ) from error


def _siblings(
    folder: Path,
    options: dict[str, Any],
    special_map: Mapping[str, Any],
    old_added: Mapping[str, int] | None,
    model: Mapping[str, Any],
) -> Siblings:
    class_name = str(options.get("tokenizer_class") or model.get("tokenizer_class") or _DEFAULT_CLASS)
    class_name = class_name.removesuffix("Fast")
    if not options.get("extra_special_tokens") and "additional_special_tokens" in options:
        options["extra_special_tokens"] = options.pop("additional_special_tokens")
    added: dict[int, AddedToken] = {}
    replaces = "added_tokens_decoder" in options
    if replaces:
        added = {int(number): _token(entry) for number, entry in options["added_tokens_decoder"].items()}
    else:
        if "additional_special_tokens" in special_map:
            special_map = {"extra_special_tokens": special_map["additional_special_tokens"], **special_map}
        options |= {
            key: _token(value, special=True) if isinstance(value, dict) else value for key, value in special_map.items()
        }
        if old_added is not None:
            special = {content_of(token) for token in _named(options, class_name, {}).values()}
            special |= {content_of(token) for token in _extra(options)}
            added = {
                number: AddedToken(text, special=text in special, normalized=text not in special)
                for text, number in old_added.items()
            }
    by_text = {token.content: token for token in added.values()}
    named = _named(options, class_name, by_text)
    return Siblings(folder, class_name, options, added, replaces, named, tuple(_extra(options)))


def _named(
    options: Mapping[str, Any], class_name: str, by_text: Mapping[str, AddedToken]
) -> dict[str, str | AddedToken]:
    extra = options.get("extra_special_tokens")
    given = {**_CLASS_NAMES.get(class_name, {}), **{name: options[name] for name in NAMES if name in options}}
    # A model's own names, such as image_token.
    given |= {key: value for key, value in options.items() if key.endswith("_token") and isinstance(value, str)}
    given |= extra if isinstance(extra, dict) else {}
    tokens = {name: _either(value) for name, value in given.items() if value}
    return {name: by_text.get(content_of(token), token) for name, token in tokens.items()}


def _extra(options: Mapping[str, Any]) -> list[str | AddedToken]:
    extra = options.get("extra_special_tokens") or []
    return [] if isinstance(extra, dict) else [_either(token) for token in extra]


def _either(value: Any) -> str | AddedToken:
    return _token(value, special=True) if isinstance(value, dict) else value


def _token(entry: Any, *, special: bool | None = None) -> AddedToken:
    if not isinstance(entry, dict):
        raise TypeError(f"{entry!r} is not a token")
    known = {key: value for key, value in entry.items() if not key.startswith("__")}
    return AddedToken(**(known if special is None else {**known, "special": special}))


def _read_object(path: Path) -> dict[str, Any] | None:
    """The JSON object in ``path``; None where there is no such file, or none that may be looked at."""
    try:
        path.stat()
    except OSError:
        return None
    return read_json_object(path, DataError)
