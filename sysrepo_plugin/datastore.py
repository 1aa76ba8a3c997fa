"""sysrepo, as the daemon uses it: trees go in and out as RFC 7951 JSON.

The only file that imports sysrepo. JSON is printed and parsed by libyang
itself, which is some ten times faster than the binding's dictionaries: 1000
sessions cost tens of milliseconds instead of most of a second.

Each subscription has a session and a thread of its own, as sessions are not
thread-safe.
"""

from __future__ import annotations

import json
import logging
import re
import sysconfig
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import _sysrepo
import cffi  # type: ignore[import-untyped]
import libyang
import sysrepo
from _sysrepo import ffi, lib
from sysrepo.session import SysrepoSession

LOG = logging.getLogger(__name__)

MODULE = "srv6-stamp"
TOP = f"/{MODULE}:stamp"

MODEL = max((Path(__file__).resolve().parent.parent / "yang").glob(f"{MODULE}@*.yang"))
"""The model that the daemon is written for; its revision is in the name (RFC 7950 §5.2)."""

IMPORTED_MODELS = Path(sysconfig.get_path("data"), "share/yang/modules/ietf")
"""Where what it imports is."""

JsonTree = dict[str, Any]

ChangeHandler = Callable[[str, JsonTree | None], None]
"""Called with the event ("enabled", "change", "done" or "abort") and the new tree."""

OperationalHandler = Callable[[str | None], JsonTree | None]
"""Called with the XPath that was asked for; gives the container `stamp`."""

ActionHandler = Callable[[Mapping[str, str], JsonTree], JsonTree | None]
"""Called with the keys in the action's path, and its input; gives its output."""

PRIORITY = 10
"""Above the default 0: subscribers that only watch are asked after the daemon."""

KEY_PREDICATE = re.compile(r"\[([\w-]+)=(?:'([^']*)'|\"([^\"]*)\")\]")


_ffi = cffi.FFI()
_ffi.cdef("""
    int sr_session_set_netconf_error2(void *session, const char *type, const char *tag,
        const char *app_tag, const char *path, const char *message, uint32_t info_count,
        const char **info_elements, const char **info_values);
""")
_error_format: Any = _ffi.dlopen(_sysrepo.__file__)
"""What the binding lacks, in the very library that it is linked against."""


class Refused(Exception):
    """Raised by a handler to refuse a change or an action; the text reaches the client."""

    def __init__(self, text: str, path: str | None = None) -> None:
        super().__init__(text)
        self.path = path
        """Of the node that would have to be another, for a change."""


class ModelOutdated(Exception):
    """The repository has a model without some of what the daemon relies on; the text says
    how to update it."""


def explained(error: sysrepo.SysrepoError) -> str:
    """What an error of sysrepo's means to an operator, where its own words do not say it."""
    text = str(error)
    if "subscription" in text and "already exists" in text:
        return "another stampd serves this sysrepo repository"
    if isinstance(error, sysrepo.SysrepoSysError | sysrepo.SysrepoUnauthorizedError):
        return f"no access to sysrepo's repository: be its owner, as a rule root ({text})"
    return text


class Datastore:
    """One connection to sysrepo with the subscriptions of the daemon."""

    def __init__(self) -> None:
        self._connection = sysrepo.SysrepoConnection()
        self._sessions: list[SysrepoSession] = []
        self._raw_subscriptions: list[Any] = []
        self._callbacks: list[Any] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Unsubscribe, last subscription first, and disconnect."""
        while self._raw_subscriptions:
            lib.sr_unsubscribe(self._raw_subscriptions.pop())
        while self._sessions:
            self._sessions.pop().stop()
        self._connection.disconnect()

    def require_model(self) -> None:
        """Raises ModelOutdated. A later revision has all that this one has (RFC 7950 §11)."""
        wanted = MODEL.stem.partition("@")[2]
        with self._connection.get_ly_ctx() as context:
            try:
                module = context.get_module(MODULE)
            except libyang.LibyangError:
                # Who subscribes is told that it is missing.
                return
            installed = max(revision.date() for revision in module.revisions())
        if installed < wanted:
            raise ModelOutdated(
                f"YANG module {MODULE} is installed in revision {installed}, {wanted} is needed: "
                f"sysrepoctl -U {MODEL} -s {IMPORTED_MODELS}"
            )

    def subscribe_changes(self, handler: ChangeHandler) -> None:
        """Have `handler` told of the running configuration, now and when it changes."""

        def callback(session: SysrepoSession, event: str, _request: int, _private: object) -> None:
            tree = None if event == "abort" else read_tree(session)
            try:
                handler(event, tree)
            except Refused as refusal:
                _set_refusal(session, refusal)
                # With a text of its own this would put another error in its place.
                raise sysrepo.SysrepoValidationFailedError("") from None

        session = self._session("running")
        # Without an explicit XPath the binding loses the text of a refusal.
        session.subscribe_module_change_unsafe(
            MODULE, TOP, callback, enabled=True, priority=PRIORITY
        )

    def subscribe_operational(self, handler: OperationalHandler) -> None:
        """Have `handler` asked for the operational state, merged with the configuration."""
        session = self._session("operational")
        callback = _operational_callback(handler)
        self._callbacks.append(callback)
        subscription = ffi.new("sr_subscription_ctx_t **")
        code = lib.sr_oper_get_subscribe(
            session.cdata,
            MODULE.encode(),
            TOP.encode(),
            callback,
            ffi.NULL,
            lib.SR_SUBSCR_OPER_MERGE,
            subscription,
        )
        if code != lib.SR_ERR_OK:
            raise sysrepo.SysrepoError.new("cannot subscribe to operational data", code)
        self._raw_subscriptions.append(subscription[0])

    def subscribe_action(self, xpath: str, handler: ActionHandler) -> None:
        """Have `handler` called for the action at schema path `xpath`."""

        def callback(path: str, values: JsonTree, _event: str, _private: object) -> JsonTree | None:
            keys = {
                match[1]: match[2] if match[2] is not None else match[3]
                for match in KEY_PREDICATE.finditer(path)
            }
            try:
                return handler(keys, values)
            except Refused as refusal:
                raise sysrepo.SysrepoOperationFailedError(str(refusal)) from None

        session = self._session("running")
        session.subscribe_rpc_call(xpath, callback, strict=True, include_implicit_defaults=True)

    def notifier(self) -> Callable[[str, JsonTree], None]:
        """A function that sends a notification, for use by one thread alone."""
        session = self._session("running")

        def send(name: str, values: JsonTree) -> None:
            session.notification_send(f"/{MODULE}:{name}", values, strict=True)

        return send

    def _session(self, datastore: str) -> SysrepoSession:
        session = self._connection.start_session(datastore)
        self._sessions.append(session)
        return session


def _set_refusal(session: SysrepoSession, refusal: Refused) -> None:
    """What a NETCONF client is told (RFC 6241 appendix A): a value that is not acceptable."""
    texts = ("application", "invalid-value", None, refusal.path, str(refusal))
    strings = [_ffi.NULL if text is None else _ffi.new("char []", text.encode()) for text in texts]
    address = _ffi.cast("void *", int(ffi.cast("uintptr_t", session.cdata)))
    code = _error_format.sr_session_set_netconf_error2(address, *strings, 0, _ffi.NULL, _ffi.NULL)
    if code != lib.SR_ERR_OK:
        raise sysrepo.SysrepoError.new("cannot refuse", code)


def read_tree(session: SysrepoSession) -> JsonTree | None:
    """The container `stamp` as `session` sees it, defaults included."""
    try:
        with session.get_data_ly(TOP) as data:
            text = data.print_mem("json", with_siblings=True, include_implicit_defaults=True)
    except sysrepo.SysrepoNotFoundError:
        return None
    tree = json.loads(text or "{}").get(f"{MODULE}:stamp")
    return tree if isinstance(tree, dict) else None


def _operational_callback(handler: OperationalHandler) -> Any:
    @ffi.callback(  # type: ignore[untyped-decorator]
        "int(sr_session_ctx_t *, uint32_t, const char *, const char *,"
        " const char *, uint32_t, struct lyd_node **, void *)"
    )
    def callback(
        session: Any,
        _id: int,
        _module: Any,
        _xpath: Any,
        request: Any,
        _request_id: int,
        parent: Any,
        _private: Any,
    ) -> int:
        # An exception must not cross into C.
        try:
            wanted = ffi.string(request).decode() if request else None
            tree = handler(wanted)
            if tree:
                with SysrepoSession(session, True).get_ly_ctx() as context:
                    node = context.parse_data_mem(
                        json.dumps({f"{MODULE}:stamp": tree}),
                        "json",
                        parse_only=True,
                        strict=True,
                    )
                parent[0] = ffi.cast("struct lyd_node *", node.cdata)
        except Exception:
            LOG.exception("cannot give operational data")
            return int(lib.SR_ERR_CALLBACK_FAILED)
        return int(lib.SR_ERR_OK)

    return callback
