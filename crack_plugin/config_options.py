"""``--cfg-options`` as a config file has them: reading ``key=value``, and putting the values into a config."""

import argparse
import copy
import re
from collections.abc import Callable, Mapping
from typing import Any

from mmengine.config import Config, DictAction

from crack_plugin.errors import ToolError

# Of the Unicode private use area, stands for a blank while mmengine parses.
_BLANK = '\ue000'
_BRACKETS = {'{': '}', '[': ']', '(': ')'}
# A text as Python and JSON write it. After a backslash the quote does not end it.
_QUOTED = re.compile(r'(?P<raw>[rR]?)(?P<quote>[\'"])(?P<text>(?:\\.|(?!(?P=quote)).)*)(?P=quote)', re.DOTALL)


class KeyValueAction(DictAction):
    """mmengine's ``DictAction`` with values as a config file has them: dicts, lists, quoted texts with blanks.

    mmengine deletes all blanks (a prompt 'thin crack' would reach the model as 'thincrack'), takes a comma inside
    quotes for the end of an element, and knows no dicts. What has neither quotes nor braces is parsed by its rules.
    """

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: Any = None) -> None:
        options = dict(getattr(namespace, self.dest, None) or {})
        for item in values:
            key, separator, value = item.partition('=')
            if not separator:
                raise argparse.ArgumentError(self, f'expected key=value without blanks around "=", got {item!r}')
            try:
                options[key] = self._parse_iterable(value)
            except (ValueError, AssertionError) as error:
                raise argparse.ArgumentError(
                    self,
                    f'{item!r} cannot be read: {error}. Write the value as in a config file, and the whole item in '
                    'double quotes for the shell: '
                    "\"key={'name': 'value'}\"",
                ) from error
        setattr(namespace, self.dest, options)

    @staticmethod
    def _parse_iterable(val: str) -> Any:
        text = val.strip()
        # Quotes around the whole may have come through the shell.
        if len(text) > 1 and text[0] == text[-1] and text[0] in '\'"' and text[1] in '{[(':
            text = text[1:-1].strip()
        if (
            text[:1] == '{'
            or text.startswith('dict(')
            or (text[:1] in ('[', '(') and re.search(r'[\'"{]|dict\(', text))
        ):
            return _parse_value(text)
        if text[:1] in ('[', '('):
            if any(text.count(left) != text.count(right) for left, right in _BRACKETS.items()):
                raise ValueError('a bracket is not closed')
            # The regular expression (?!detr_decoder).*(q_proj|v_proj) is no list: its first bracket closes early.
            closes_early = _plain_text(text, 1, _BRACKETS[text[0]])[1] < len(text) - 1
            if closes_early and _plain_text(text, 0, ',')[1] == len(text):
                return text
        compact = re.sub(r' *([\[\](),]) *', r'\1', text)
        return _restore_blanks(DictAction._parse_iterable(compact.replace(' ', _BLANK)))


def _restore_blanks(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace(_BLANK, ' ')
    if isinstance(value, (list, tuple)):
        return type(value)(_restore_blanks(item) for item in value)
    return value


def _parse_value(text: str) -> Any:
    """What a text such as ``{'type': 'FocalLoss', 'gamma': 2.0}`` stands for; ValueError if it stands for nothing."""
    value, position = _read_value(text, 0, '')
    rest = text[position:].strip()
    if rest:
        raise ValueError(f'{rest!r} follows where the value ends')
    return value


def _read_value(text: str, position: int, ends: str) -> tuple[Any, int]:
    """The value that begins at ``position``, and where it ends: at one of ``ends`` if it is plain."""
    position = _skip_blanks(text, position)
    if text.startswith('dict(', position):
        return _read_pairs(text, position + len('dict('), '=', ')')
    if text.startswith('{', position):
        return _read_pairs(text, position + 1, ':', '}')
    if text.startswith(('[', '('), position):
        closing = _BRACKETS[text[position]]
        items, position = _read_items(
            text, position + 1, closing, lambda text, position: _read_value(text, position, ',' + closing)
        )
        return (tuple(items) if closing == ')' else items), position
    quoted = _QUOTED.match(text, position)
    if quoted:
        content = quoted['text'] if quoted['raw'] else re.sub(r'\\([\\\'"])', r'\1', quoted['text'])
        return content, quoted.end()
    plain, position = _plain_text(text, position, ends)
    if plain[:1] in ('"', "'"):
        raise ValueError(f'the quote of {plain} is not closed')
    if not plain:
        raise ValueError('a value is missing' if position < len(text) else 'it ends too early')
    return (None if plain == 'null' else DictAction._parse_int_float_bool(plain)), position


def _read_pairs(text: str, position: int, separator: str, closing: str) -> tuple[dict[Any, Any], int]:
    def read_pair(text: str, position: int) -> tuple[tuple[Any, Any], int]:
        key, position = _read_value(text, position, separator + ',' + closing)
        position = _skip_blanks(text, position)
        if not text.startswith(separator, position):
            raise ValueError(f'{separator!r} and a value are missing after {key!r}')
        value, position = _read_value(text, position + 1, ',' + closing)
        return (key, value), position

    pairs, position = _read_items(text, position, closing, read_pair)
    if any(isinstance(key, (dict, list)) for key, _ in pairs):
        raise ValueError('a key is a text or a number')
    return dict(pairs), position


def _read_items(
    text: str, position: int, closing: str, read: Callable[[str, int], tuple[Any, int]]
) -> tuple[list[Any], int]:
    """Items between commas up to ``closing``; a comma after the last one is allowed, as in Python."""
    items: list[Any] = []
    position = _skip_blanks(text, position)
    while not text.startswith(closing, position):
        item, position = read(text, position)
        items.append(item)
        position = _skip_blanks(text, position)
        if text.startswith(',', position):
            position = _skip_blanks(text, position + 1)
        elif not text.startswith(closing, position):
            rest = text[position:]
            raise ValueError(
                f'a comma or {closing!r} is missing before {rest!r}' if rest else f'{closing!r} is missing'
            )
    return items, position + 1


def _plain_text(text: str, position: int, ends: str) -> tuple[str, int]:
    """Text without quotes up to one of ``ends`` outside brackets, such as a regular expression with a group."""
    start, depth = position, 0
    while position < len(text) and (depth or text[position] not in ends):
        depth += (text[position] in _BRACKETS) - (text[position] in _BRACKETS.values())
        position += 1
    return text[start:position].strip(), position


def _skip_blanks(text: str, position: int) -> int:
    while text[position : position + 1].isspace():
        position += 1
    return position


def merge_options(cfg: Config, options: Mapping[str, Any] | None) -> None:
    """Put the values of ``--cfg-options`` into a config.

    As ``Config.merge_from_dict``, except that a dict also replaces what is no dict (``model.lora={'r': 4}`` over None).

    Raises:
        ToolError: One of them has no place in the config.
    """
    if not options:
        return
    options = {key: _marked_for_replacement(cfg, key, value) for key, value in options.items()}
    try:
        cfg.merge_from_dict(options)
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise ToolError(
            f'--cfg-options {_unmergeable(cfg, options)}: the config has no place for it. A dot leads into a dict, a '
            'number into a list, as in param_scheduler.0.T_max=12; a dict or a list as a whole is set by '
            "\"key={'name': 'value'}\""
        ) from error


def _marked_for_replacement(cfg: Config, key: str, value: Any) -> Any:
    """A dict that takes the place of what is no dict, marked so for mmengine; anything else as it is."""
    *parents, name = key.split('.')
    parent: Any = cfg
    for step in parents:
        if isinstance(parent, list):
            parent = parent[int(step)] if step.isdigit() and int(step) < len(parent) else None
        else:
            parent = parent.get(step) if isinstance(parent, (Config, dict)) else None
    if not isinstance(value, dict) or not isinstance(parent, (Config, dict)) or name not in parent:
        return value
    present = parent[name]
    # mmengine merges dicts with texts as keys only.
    if isinstance(present, dict) and all(isinstance(each, str) for each in value):
        return value
    return {**(present if isinstance(present, dict) else {}), **value, '_delete_': True}


def _unmergeable(cfg: Config, options: Mapping[str, Any]) -> str:
    """The first option that cannot be merged alone; all of them if each can."""
    for key, value in options.items():
        try:
            copy.deepcopy(cfg).merge_from_dict({key: copy.deepcopy(value)})
        except (AttributeError, IndexError, KeyError, TypeError):
            return key
    return ', '.join(options)
