"""The tokenizer of the prompts: SAM 3's is CLIP's, built from mmsegmentation's copy of its vocabulary."""

import gzip
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mmengine.logging import print_log
from torch import Tensor
from transformers import CLIPTokenizer, PreTrainedTokenizerBase

from crack_plugin.errors import ConfigError
from crack_plugin.models import base_files
from crack_plugin.models.base_files import BaseModelError

PROMPT_LENGTH = 32
"""Tokens a prompt is padded to, as SAM 3's processor does."""


def clip_tokenizer() -> PreTrainedTokenizerBase:
    """Build CLIP's tokenizer, which is SAM 3's, from the BPE merges that mmsegmentation carries."""
    vocabulary, merges = _clip_vocabulary()
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=PROMPT_LENGTH)


@cache
def _clip_vocabulary() -> tuple[dict[str, int], Any]:
    """Ids by token, and merges."""
    spec = find_spec('mmseg')
    assert spec is not None and spec.origin is not None
    merges_file = Path(spec.origin).parent / 'utils' / 'bpe_simple_vocab_16e6.txt.gz'
    lines = gzip.decompress(merges_file.read_bytes()).decode('utf-8').split('\n')
    # CLIP's vocabulary: 256 bytes, the same ending a word, 48,894 merges, two special tokens: 49,408.
    merges: Any = [tuple(line.split()) for line in lines[1 : 49152 - 256 - 2 + 1]]
    alphabet = _byte_alphabet()
    words = [*alphabet, *(f'{letter}</w>' for letter in alphabet), *(''.join(pair) for pair in merges)]
    return {word: index for index, word in enumerate([*words, '<|startoftext|>', '<|endoftext|>'])}, merges


def tokenize(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Tokenize prompts as SAM 3's processor does.

    Args:
        tokenizer: From :func:`clip_tokenizer` or :func:`load_tokenizer`.
        prompts: K texts.

    Returns:
        Token ids and attention mask, both of shape (K, 32).

    Raises:
        ConfigError: A prompt is longer than 32 tokens.
    """
    for prompt in prompts:
        length = len(tokenizer(prompt).input_ids)
        if length > PROMPT_LENGTH:
            raise ConfigError(f'prompt {prompt!r} has {length} tokens, SAM 3 reads {PROMPT_LENGTH}. Shorten it.')
    tokens = tokenizer(list(prompts), padding='max_length', max_length=PROMPT_LENGTH, return_tensors='pt')
    return tokens.input_ids, tokens.attention_mask


def load_tokenizer(base: str, folder: Path) -> PreTrainedTokenizerBase:
    """CLIP's tokenizer, if the folder's is that one, or if there is none.

    The folder's files are compared with it, never loaded: from missing or damaged files transformers builds a tokenizer
    that gives every prompt the same ids.

    Args:
        base: The base as the user gave it, for messages.
        folder: Where its files are.

    Raises:
        BaseModelError: The files are damaged, or hold another vocabulary.
    """
    tokenizer = clip_tokenizer()
    given = _read_vocabulary(base, folder)
    if given is None:
        print_log(f"{base} holds no tokenizer: using CLIP's, which is SAM 3's", logger='current')
        return tokenizer
    own = tokenizer.get_vocab()
    differing = [token for token, index in own.items() if given.get(token) != index]
    # Embeddings belong to ids: a text encoder trained on another vocabulary cannot be given CLIP's.
    if len(given) != len(own) or len(differing) > len(own) // 100:
        raise BaseModelError(
            f"base={base!r}: the tokenizer in {folder} is not SAM 3's, which is CLIP's: {len(given):,} tokens instead "
            f"of {len(own):,}, and {len(differing):,} of CLIP's have other ids or none, such as {differing[:3]}. If "
            "the weights are SAM 3's, remove tokenizer.json, vocab.json and merges.txt: CLIP's is used then. If they "
            'were trained with this tokenizer, prompts for them cannot be encoded here.'
        )
    if differing:
        print_log(
            f"{base}: {len(differing)} tokens of its tokenizer have other ids than in CLIP's, which is SAM 3's, such "
            f"as {differing[:3]}: using CLIP's",
            logger='current',
            level=30,
        )
    return tokenizer


def _byte_alphabet() -> list[str]:
    """The printable stand-ins of the 256 bytes in CLIP's order, as GPT-2's byte-level BPE defines them."""
    printable = [*range(ord('!'), ord('~') + 1), *range(ord('¡'), ord('¬') + 1), *range(ord('®'), ord('ÿ') + 1)]
    others = 256 - len(printable)
    return [chr(byte) for byte in printable] + [chr(256 + index) for index in range(others)]


def _read_vocabulary(base: str, folder: Path) -> dict[str, int] | None:
    """Read the tokens and their ids.

    Returns:
        Ids by token, or None if the folder has no tokenizer.

    Raises:
        BaseModelError: The tokenizer's files are damaged or incomplete.
    """
    present = [name for name in base_files.TOKENIZER_FILES if (folder / name).is_file()]
    if not present:
        return None
    if 'tokenizer.json' in present:
        content = base_files.read_json(folder / 'tokenizer.json')
        model = content.get('model')
        model = model if isinstance(model, dict) else {}
        vocabulary, merges = model.get('vocab'), model.get('merges')
        added = content.get('added_tokens') or []
    else:
        for name in ('vocab.json', 'merges.txt'):
            if name not in present:
                raise BaseModelError(_incomplete(base, folder, f'there is {present[0]} without {name}'))
        base_files.refuse_pointer(folder / 'merges.txt')
        vocabulary, added = base_files.read_json(folder / 'vocab.json'), []
        try:
            lines = (folder / 'merges.txt').read_text('utf-8').splitlines()
        except UnicodeDecodeError as error:
            raise BaseModelError(_incomplete(base, folder, f'merges.txt is no UTF-8 text ({error})')) from error
        merges = [line for line in lines if len(line.split()) == 2 and not line.startswith('#version')]
    if not isinstance(vocabulary, dict) or not vocabulary:
        raise BaseModelError(_incomplete(base, folder, f'{present[0]} has no vocabulary'))
    if not merges:
        raise BaseModelError(_incomplete(base, folder, f'{present[0]} has a vocabulary without merges'))
    try:
        return {**vocabulary, **{token['content']: token['id'] for token in added}}
    except (KeyError, TypeError) as error:
        raise BaseModelError(
            _incomplete(base, folder, 'added_tokens in tokenizer.json are not objects with content and id')
        ) from error


def _incomplete(base: str, folder: Path, what: str) -> str:
    return (
        f'base={base!r}: the tokenizer in {folder} is damaged: {what}. Copy or download its files again, or remove '
        f"{', '.join(base_files.TOKENIZER_FILES)}: without them CLIP's tokenizer, which is SAM 3's, is used."
    )
