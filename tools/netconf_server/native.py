"""What the Python bindings of sysrepo and libyang lack, reached through cffi.

The bindings are linked against one libsysrepo and one libyang; symbols are looked up in those very
libraries, through the handle of the binding's own extension module. Every function here is a thin
wrapper: C pointers in, Python values out. Blocking calls release the interpreter lock.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import Enum
from typing import Any

import _libyang
import _sysrepo
import cffi  # type: ignore[import-untyped]
from libyang import util
from libyang.log import temp_log_options

from tools.netconf_server.native_errors import ErrorItem, NativeError

LOG = logging.getLogger(__name__)

_ffi = cffi.FFI()
_ffi.cdef("""
    typedef struct { int err_code; char *message; char *error_format; void *error_data; } err_t;
    typedef struct { err_t *err; uint32_t err_count; } err_info_t;
    struct timespec { long tv_sec; long tv_nsec; };
    int sr_session_get_error(void *session, const err_info_t **error_info);
    int sr_err_get_netconf_error(const err_t *err, const char **type, const char **tag,
        const char **app_tag, const char **path, const char **message,
        const char ***info_elements, const char ***info_values, uint32_t *info_count);
    uint32_t sr_session_get_id(void *session);
    uint32_t sr_get_content_id(void *conn);
    int sr_get_lock(void *conn, int datastore, const char *module, int *is_locked, uint32_t *id,
        struct timespec *timestamp);
    int sr_nacm_init(void *session, uint32_t opts, void **subscription);
    void sr_nacm_destroy(void);
    int sr_nacm_set_user(void *session, const char *user);
    int sr_nacm_check_operation(void *session, const void *operation);
    int srsn_stream_collect_mods(const char *stream, const char *xpath, const void *context,
        void **modules);
    int sr_get_module_replay_support(void *conn, const char *module, struct timespec *earliest,
        int *enabled);
    const char *sr_get_repo_path(void);
    int sr_unsubscribe(void *subscription);
    void free(void *pointer);
""")
_lib: Any = _ffi.dlopen(_sysrepo.__file__)
_sr: Any = _sysrepo.lib
_sr_ffi: Any = _sysrepo.ffi
_ly: Any = _libyang.lib
_ly_ffi: Any = _libyang.ffi

SR_OK: int = _sr.SR_ERR_OK
SR_NOT_FOUND: int = _sr.SR_ERR_NOT_FOUND
DATASTORES: dict[str, int] = {
    "startup": _sr.SR_DS_STARTUP,
    "running": _sr.SR_DS_RUNNING,
    "candidate": _sr.SR_DS_CANDIDATE,
    "operational": _sr.SR_DS_OPERATIONAL,
}
NO_CONFIG: int = _sr.SR_OPER_NO_CONFIG


_array: Any = util.ly_array_iter


def _text(pointer: Any) -> str | None:
    return None if not pointer else _ffi.string(_ffi.cast("char *", pointer)).decode()


def _address(pointer: Any) -> Any:
    return _ffi.cast("void *", pointer)


def session_errors(session: Any, code: int) -> list[ErrorItem]:
    """Errors that the last call on the session left behind, NETCONF details included."""
    info = _ffi.new("const err_info_t **")
    items: list[ErrorItem] = []
    if _lib.sr_session_get_error(_address(session), info) == SR_OK and info[0]:
        items = [_error_item(info[0].err + i) for i in range(info[0].err_count)]
    if not items:
        items = [ErrorItem(code, _text(_sr.sr_strerror(code)) or "unknown error")]
    return items


def _error_item(err: Any) -> ErrorItem:
    message = _text(err.message) or _text(_sr.sr_strerror(err.err_code)) or "unknown error"
    if _text(err.error_format) != "NETCONF":
        return ErrorItem(err.err_code, message)
    strings = _ffi.new("const char *[5]")
    arrays = _ffi.new("const char **[2]")
    count = _ffi.new("uint32_t *")
    status = _lib.sr_err_get_netconf_error(
        err, *(strings + i for i in range(5)), arrays, arrays + 1, count
    )
    if status != SR_OK:
        return ErrorItem(err.err_code, message)
    try:
        info = tuple(
            (_text(arrays[0][i]) or "", _text(arrays[1][i]) or "") for i in range(count[0])
        )
    finally:
        _lib.free(_ffi.cast("void *", arrays[0]))
        _lib.free(_ffi.cast("void *", arrays[1]))
    return ErrorItem(
        err.err_code,
        _text(strings[4]) or message,
        _text(strings[0]),
        _text(strings[1]),
        _text(strings[2]),
        _text(strings[3]),
        info,
    )


def _check(session: Any, code: int) -> None:
    if code != SR_OK:
        raise NativeError("sysrepo", code, session_errors(session, code))


def _check_ly(context: Any, code: int) -> None:
    if code == _ly.LY_SUCCESS:
        return
    items: list[ErrorItem] = []
    err = _ly.ly_err_first(context)
    while err:
        if err.level == _ly.LY_LLERR:
            items.append(
                ErrorItem(
                    err.err,
                    _text(err.msg) or "unknown error",
                    app_tag=_text(err.apptag),
                    path=_text(err.data_path),
                )
            )
        err = err.next
    _ly.ly_err_clean(context, _ly_ffi.NULL)
    raise NativeError("libyang", code, items or [ErrorItem(code, "unknown error")])


@contextmanager
def library_context(connection: Any) -> Iterator[Any]:
    """Hold the libyang context of a connection: trees are only valid inside."""
    pointer = _sr.sr_acquire_context(connection)
    if not pointer:
        raise NativeError("sysrepo", 0, [ErrorItem(0, "the libyang context is not available")])
    try:
        yield _ly_ffi.cast("struct ly_ctx *", pointer)
    finally:
        _sr.sr_release_context(connection)


@contextmanager
def parsed_data(
    context: Any, xml: bytes, *, opaque: bool = False, validate: bool = False
) -> Iterator[Any]:
    """Parse configuration data. Yields the first node, or NULL for empty data.

    ``opaque`` keeps nodes whose value does not fit their type (a delete without a value); without
    it the parsing is strict. ``validate`` checks the data as a complete configuration.

    :raises NativeError: the data does not fit the schema.
    """
    options = _ly.LYD_PARSE_OPAQ if opaque else _ly.LYD_PARSE_STRICT
    options |= _ly.LYD_PARSE_NO_STATE
    if not validate:
        options |= _ly.LYD_PARSE_ONLY
    flags = _ly.LYD_VALIDATE_NO_STATE if validate else 0
    tree = _ly_ffi.new("struct lyd_node **")
    _ly.ly_err_clean(context, _ly_ffi.NULL)
    data = _ly_ffi.new("char []", xml)
    try:
        _check_ly(context, _ly.lyd_parse_data_mem(context, data, _ly.LYD_XML, options, flags, tree))
        yield tree[0]
    finally:
        _ly.lyd_free_all(tree[0])


@contextmanager
def parsed_operation(context: Any, xml: bytes) -> Iterator[tuple[Any, Any]]:
    """Parse an RPC or an action without its envelope. Yields ``(tree, operation node)``.

    :raises NativeError: the operation does not fit the schema.
    """
    source = _ly_ffi.new("struct ly_in **")
    tree = _ly_ffi.new("struct lyd_node **")
    operation = _ly_ffi.new("struct lyd_node **")
    data = _ly_ffi.new("char []", xml)
    _ly.ly_err_clean(context, _ly_ffi.NULL)
    _check_ly(context, _ly.ly_in_new_memory(data, source))
    try:
        _check_ly(
            context,
            _ly.lyd_parse_op(
                context,
                _ly_ffi.NULL,
                source[0],
                _ly.LYD_XML,
                _ly.LYD_TYPE_RPC_YANG,
                tree,
                operation,
            ),
        )
        yield tree[0], operation[0]
    finally:
        _ly.ly_in_free(source[0], 0)
        _ly.lyd_free_all(tree[0])


def opaque_nodes(tree: Any) -> Iterator[tuple[str, str, str]]:
    """Nodes that fit no schema node or type, as ``(parent's schema path, namespace, name)``."""
    node = tree
    while node:
        if node.schema:
            yield from opaque_nodes(_ly.lyd_child(node))
        else:
            name = _ly_ffi.cast("struct lyd_node_opaq *", node).name
            parent = _ly_ffi.cast("struct lyd_node *", node.parent)
            path = _schema_path(parent.schema) if parent and parent.schema else ""
            yield path, _text(name.module_ns) or "", _text(name.name) or ""
        node = node.next


def _schema_path(schema: Any) -> str:
    path = _ly.lysc_path(schema, _ly.LYSC_PATH_DATA, _ly_ffi.NULL, 0)
    try:
        return _text(path) or ""
    finally:
        _ly.free(path)


def schema_kind(context: Any, path: str) -> str | None:
    """Keyword of the schema node at a path without predicates; None if there is no such node."""
    node = _schema_node(context, path)
    if not node:
        return None
    kinds = {_ly.LYS_LEAF: "leaf", _ly.LYS_LEAFLIST: "leaf-list", _ly.LYS_LIST: "list"}
    return kinds.get(node.nodetype, "other")


def list_keys(context: Any, path: str) -> list[str]:
    """Names of the keys of the list at a schema path."""
    keys: list[str] = []
    child = _ly.lysc_node_child(_schema_node(context, path))
    while child and child.flags & _ly.LYS_KEY:
        keys.append(_text(child.name) or "")
        child = child.next
    return keys


def musts(context: Any, path: str) -> list[tuple[str | None, str | None]]:
    """``(error-message, error-app-tag)`` of the ``must`` statements of a schema node."""
    node = _schema_node(context, path)
    array = _ly.lysc_node_musts(node) if node else _ly_ffi.NULL
    if not array:
        return []
    return [(_text(must.emsg), _text(must.eapptag)) for must in _array(array)]


def _schema_node(context: Any, path: str) -> Any:
    # An unknown node is an answer here, not an error to report.
    with temp_log_options():
        return _ly.lys_find_path(context, _ly_ffi.NULL, _ly_ffi.new("char []", path.encode()), 0)


def operation_names(operation: Any) -> list[str]:
    """Names from the top of the tree down to an operation node."""
    names: list[str] = []
    node = operation
    while node:
        names.insert(0, _text(node.schema.name) or "")
        node = _ly_ffi.cast("struct lyd_node *", node.parent)
    return names


def operation_children(tree: Any, names: list[str]) -> Any:
    """First child of the operation in an output tree, which may start with its ancestors."""
    level = tree
    for name in names:
        node = level
        while node and _text(node.schema.name) != name:
            node = node.next
        if node:
            level = _ly.lyd_child(node)
        elif name == names[-1]:
            return _ly_ffi.NULL
    return level


def print_siblings(context: Any, tree: Any) -> bytes:
    """XML of a node and all its siblings, without white space; empty for NULL."""
    if not tree:
        return b""
    buffer = _ly_ffi.new("char **")
    flags = _ly.LYD_PRINT_WITHSIBLINGS | _ly.LYD_PRINT_SHRINK
    _check_ly(context, _ly.lyd_print_mem(buffer, tree, _ly.LYD_XML, flags))
    if not buffer[0]:
        return b""
    try:
        return bytes(_ly_ffi.string(buffer[0]))
    finally:
        _ly.free(buffer[0])


def merge(context: Any, target: Any, source: Any) -> None:
    """Merge the siblings ``source`` into ``target``, a ``struct lyd_node **``."""
    if source:
        _check_ly(context, _ly.lyd_merge_siblings(target, source, 0))


@contextmanager
def merged_tree() -> Iterator[Any]:
    """An empty tree of our own, to merge into; freed at the end."""
    target = _ly_ffi.new("struct lyd_node **")
    try:
        yield target
    finally:
        _ly.lyd_free_all(target[0])


@contextmanager
def datastore_tree(session: Any, xpath: str, *, timeout_ms: int, options: int = 0) -> Iterator[Any]:
    """What the session's datastore holds at an XPath; NULL if nothing.

    :raises NativeError: the XPath is wrong, or a provider of the data failed.
    """
    data = _sr_ffi.new("sr_data_t **")
    path = _sr_ffi.new("char []", xpath.encode())
    code = _sr.sr_get_data(session, path, 0, timeout_ms, options, data)
    if code != SR_NOT_FOUND:
        _check(session, code)
    try:
        yield _ly_ffi.cast("struct lyd_node *", data[0].tree) if data[0] else _ly_ffi.NULL
    finally:
        if data[0]:
            _sr.sr_release_data(data[0])


def edit_batch(session: Any, tree: Any, default_operation: str) -> None:
    """Stage an edit. :raises NativeError: the edit is malformed."""
    operation = _sr_ffi.new("char []", default_operation.encode())
    node = _sr_ffi.cast("struct lyd_node *", tree)
    _check(session, _sr.sr_edit_batch(session, node, operation))


def apply_changes(session: Any, timeout_ms: int) -> None:
    """Validate and apply the staged edit. :raises NativeError: it was refused."""
    _check(session, _sr.sr_apply_changes(session, timeout_ms))


def validate(session: Any, timeout_ms: int) -> None:
    """Validate the datastore with the staged edit. :raises NativeError: it is invalid."""
    _check(session, _sr.sr_validate(session, _sr_ffi.NULL, timeout_ms))


def copy_config(session: Any, module: str, source: str, timeout_ms: int) -> None:
    """Replace a module's data in the session's datastore by those of another.

    :raises NativeError: the datastore is locked, cannot be written, or would be invalid.
    """
    name = _sr_ffi.new("char []", module.encode())
    _check(session, _sr.sr_copy_config(session, name, DATASTORES[source], timeout_ms))


def discard_changes(session: Any) -> None:
    """Forget the staged edit."""
    _check(session, _sr.sr_discard_changes(session))


@contextmanager
def rpc_output(session: Any, tree: Any, timeout_ms: int) -> Iterator[Any]:
    """Send an RPC or action. Yields its output tree, or NULL.

    :raises NativeError: nobody serves it, or its callback failed.
    """
    data = _sr_ffi.new("sr_data_t **")
    node = _sr_ffi.cast("struct lyd_node *", tree)
    _check(session, _sr.sr_rpc_send_tree(session, node, timeout_ms, data))
    try:
        yield _ly_ffi.cast("struct lyd_node *", data[0].tree) if data[0] else _ly_ffi.NULL
    finally:
        if data[0]:
            _sr.sr_release_data(data[0])


def lock(session: Any) -> None:
    """Lock the session's whole datastore. :raises NativeError: it is held elsewhere."""
    _check(session, _sr.sr_lock(session, _sr_ffi.NULL, 0))


def unlock(session: Any) -> None:
    """Release the lock. :raises NativeError: this session holds none."""
    _check(session, _sr.sr_unlock(session, _sr_ffi.NULL))


def lock_holder(connection: Any, datastore: str, module: str | None) -> int | None:
    """sysrepo's id of the session that holds the lock; None if there is none."""
    locked = _ffi.new("int *")
    holder = _ffi.new("uint32_t *")
    name = _ffi.NULL if module is None else _ffi.new("char []", module.encode())
    code = _lib.sr_get_lock(
        _address(connection), DATASTORES[datastore], name, locked, holder, _ffi.NULL
    )
    return int(holder[0]) if code == SR_OK and locked[0] else None


def session_id(session: Any) -> int:
    """sysrepo's own id of a session."""
    return int(_lib.sr_session_get_id(_address(session)))


def content_id(connection: Any) -> int:
    """Content-id of the YANG library (RFC 8525 section 3)."""
    return int(_lib.sr_get_content_id(_address(connection)))


def repository_path() -> str:
    """Folder of the sysrepo repository."""
    return _text(_lib.sr_get_repo_path()) or ""


def nacm_init(session: Any) -> Any:
    """Start access control in this process (RFC 8341). Returns its subscription."""
    subscription = _ffi.new("void **")
    _check(session, _lib.sr_nacm_init(_address(session), 0, subscription))
    return subscription[0]


def nacm_destroy(subscription: Any) -> None:
    """Stop access control."""
    _lib.sr_unsubscribe(subscription)
    _lib.sr_nacm_destroy()


def nacm_set_user(session: Any, user: str) -> None:
    """Bind a session to a user: every later call on it is checked."""
    _check(session, _lib.sr_nacm_set_user(_address(session), user.encode()))


def nacm_check_operation(session: Any, operation: Any) -> None:
    """:raises NativeError: the user of the session may not execute the operation."""
    _check(session, _lib.sr_nacm_check_operation(_address(session), _address(operation)))


class NotificationEvent(Enum):
    """What a subscription is told, in values of ``sr_ev_notif_type_t``."""

    REALTIME = 0
    REPLAY = 1
    REPLAY_COMPLETE = 2
    STOP_TIME = 7


OnNotification = Callable[[NotificationEvent, int, bytes], None]
"""Called with the event, its time in nanoseconds since 1970, and the notification as XML."""


def notifying_modules(context: Any, xpath: str | None) -> list[str]:
    """Modules that an XPath concerns; without one, those that have notifications.

    :raises NativeError: the XPath is wrong.
    """
    found = _ffi.new("void **")
    path = _ffi.NULL if xpath is None else _ffi.new("char []", xpath.encode())
    code = _lib.srsn_stream_collect_mods(
        _ffi.new("char []", b"NETCONF"), path, _address(context), found
    )
    if code == _sr.SR_ERR_LY:
        _check_ly(context, code)
    if code != SR_OK:
        raise NativeError("sysrepo", code, [ErrorItem(code, _text(_sr.sr_strerror(code)) or "")])
    modules = _ly_ffi.cast("struct ly_set *", found[0])
    try:
        return [
            _text(_ly_ffi.cast("struct lys_module *", modules.objs[i]).name) or ""
            for i in range(modules.count)
        ]
    finally:
        _ly.ly_set_free(modules, _ly_ffi.NULL)


def has_replay(connection: Any, module: str) -> bool:
    """Whether sysrepo keeps the notifications of a module."""
    enabled = _ffi.new("int *")
    name = _ffi.new("char []", module.encode())
    code = _lib.sr_get_module_replay_support(_address(connection), name, _ffi.NULL, enabled)
    return bool(code == SR_OK and enabled[0])


class NotificationSubscription:
    """Notifications of some modules, by one thread of sysrepo.

    The session's user decides which are seen (RFC 8341 section 3.4.6).
    """

    def __init__(
        self,
        session: Any,
        modules: Sequence[str],
        xpath: str | None,
        start_ns: int | None,
        stop_ns: int | None,
        on_event: OnNotification,
    ) -> None:
        """:raises NativeError: the XPath selects no notification."""
        self._subscription = _sr_ffi.new("sr_subscription_ctx_t **")
        self._callback = _notification_callback(on_event)
        path = _sr_ffi.NULL if xpath is None else _sr_ffi.new("char []", xpath.encode())
        times = [_timespec(start_ns), _timespec(stop_ns)]
        try:
            for module in modules:
                name = _sr_ffi.new("char []", module.encode())
                code = _sr.sr_notif_subscribe_tree(
                    *(session, name, path, *times),
                    *(self._callback, _sr_ffi.NULL, 0, self._subscription),
                )
                _check(session, code)
        except NativeError:
            self.close()
            raise

    def close(self) -> None:
        """End the subscription and its thread; nothing is called afterwards."""
        # A time-out means that an event is being delivered (sr_unsubscribe has to be repeated).
        while self._subscription[0]:
            code = _sr.sr_unsubscribe(self._subscription[0])
            if code == _sr.SR_ERR_TIME_OUT:
                continue
            if code != SR_OK:
                LOG.error("a subscription may be left: %s", _text(_sr.sr_strerror(code)))
            self._subscription[0] = _sr_ffi.NULL


def _timespec(time_ns: int | None) -> Any:
    if time_ns is None:
        return _sr_ffi.NULL
    seconds, nanoseconds = divmod(time_ns, 1_000_000_000)
    return _sr_ffi.new("struct timespec *", {"tv_sec": seconds, "tv_nsec": nanoseconds})


def _notification_callback(on_event: OnNotification) -> Any:
    known = {event.value: event for event in NotificationEvent}

    @_sr_ffi.callback(  # type: ignore[untyped-decorator]
        "void(sr_session_ctx_t *, uint32_t, const sr_ev_notif_type_t, const struct lyd_node *,"
        " struct timespec *, void *)"
    )
    def callback(
        _session: Any, _id: int, kind: int, notification: Any, time: Any, _private: Any
    ) -> None:
        # An exception must not cross into C.
        try:
            event = known.get(int(kind))
            if event is None:
                return
            time_ns = time.tv_sec * 1_000_000_000 + time.tv_nsec if time else 0
            on_event(event, time_ns, _print_notification(notification))
        except Exception:
            LOG.exception("a notification is lost")

    return callback


def _print_notification(notification: Any) -> bytes:
    if not notification:
        return b""
    node = _ly_ffi.cast("struct lyd_node *", notification)
    # One that belongs to a data node is sent within it (RFC 7950 section 7.16.2).
    while node.parent:
        node = _ly_ffi.cast("struct lyd_node *", node.parent)
    buffer = _ly_ffi.new("char **")
    code = _ly.lyd_print_mem(buffer, node, _ly.LYD_XML, _ly.LYD_PRINT_SHRINK)
    if code != _ly.LY_SUCCESS:
        raise NativeError("libyang", code, [ErrorItem(code, "a notification cannot be printed")])
    try:
        return bytes(_ly_ffi.string(buffer[0]))
    finally:
        _ly.free(buffer[0])
