"""The server's datastore: sysrepo behind the :class:`~tools.netconf_server.operations.Datastore`.

One connection serves all sessions. A :class:`BackendSession` owns a sysrepo session, which is not
thread-safe: use each from one thread at a time. Access control (RFC 8341) is sysrepo's: each
session carries the name of its user, and sysrepo checks every read, write and call against
``ietf-netconf-acm``. root is sysrepo's recovery user.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import Any

import libyang
import sysrepo
from lxml import etree

from tools.netconf_server import edits, messages, monitoring, native, schemas, subscription
from tools.netconf_server import native_refusals as refusals
from tools.netconf_server.capabilities import (
    FEATURE_CAPABILITIES,
    ModuleInfo,
    build_capabilities,
)
from tools.netconf_server.errors import (
    ErrorTag,
    RpcError,
    application_error,
    bad_element,
    not_supported,
    protocol_error,
)
from tools.netconf_server.filters import schema_path
from tools.netconf_server.native_errors import (
    MUST_VIOLATION,
    ErrorItem,
    NativeError,
    SrCode,
    locking_session,
    to_rpc_error,
)
from tools.netconf_server.notifications import Outbox, SubscriptionRequest

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Timeouts:
    """How long sysrepo may wait for other processes, in milliseconds."""

    change_ms: int = 10_000
    data_ms: int = 10_000
    rpc_ms: int = 30_000


@dataclass(frozen=True)
class _Library:
    """What is derived from one content-id of the YANG library."""

    content_id: int
    modules: tuple[ModuleInfo, ...]
    submodules: tuple[ModuleInfo, ...]
    namespaces: Mapping[str, str]
    capabilities: tuple[str, ...]


class Backend:
    """One sysrepo connection.

    ``records`` and ``statistics`` feed the monitoring data, if the repository has the module
    ``ietf-netconf-monitoring``.
    """

    def __init__(
        self,
        records: Callable[[], Sequence[monitoring.SessionRecord]],
        statistics: monitoring.ServerStatistics,
        timeouts: Timeouts | None = None,
    ) -> None:
        self.timeouts = timeouts or Timeouts()
        self.locks: dict[str, monitoring.LockRecord] = {}
        self._records = records
        self._statistics = statistics
        self._sessions: dict[int, int] = {}
        self._guard = Lock()
        self._connection = sysrepo.SysrepoConnection()
        with ExitStack() as undo:
            undo.callback(self._connection.disconnect)
            self._enable_features()
            self._folder = Path(native.repository_path()) / "yang"
            self._library = self._load_library()
            # Access control follows the datastore of this session: it has to be running.
            self._own_session = self._connection.start_session("running")
            undo.callback(self._own_session.stop)
            self._nacm = native.nacm_init(self._own_session.cdata)
            undo.callback(native.nacm_destroy, self._nacm)
            self._startup = self._connection.start_session("startup")
            undo.callback(self._startup.stop)
            self._startup_guard = Lock()
            self._serve_monitoring()
            self._notifications = libyang.Context()
            undo.callback(self._notifications.destroy)
            self._notifications.parse_module_str(subscription.MODULE)
            self._undo = undo.pop_all()

    @property
    def connection(self) -> Any:
        """The connection's C pointer."""
        return self._connection.cdata

    @property
    def notifications_context(self) -> Any:
        """A libyang context (a C pointer) that knows ``<create-subscription>``."""
        return self._notifications.cdata

    @property
    def capabilities(self) -> tuple[str, ...]:
        """What a new session announces."""
        return self.library().capabilities

    @property
    def modules(self) -> Mapping[str, str]:
        """Namespace to name, implemented modules."""
        return self.library().namespaces

    def library(self) -> _Library:
        """The YANG library, read again if modules or features have changed."""
        with self._guard:
            if native.content_id(self.connection) != self._library.content_id:
                self._library = self._load_library()
            return self._library

    def schema(self, identifier: str, version: str | None, language: str) -> str:
        """Text of a module or submodule. :raises RpcError: there is no such schema."""
        library = self.library()
        schema = schemas.find_schema(
            (*library.modules, *library.submodules), identifier, version, language
        )
        with native.library_context(self.connection) as context:
            return schemas.schema_text(context, self._folder, schema)

    def open_session(self, session_id: int, user: str) -> BackendSession:
        """A datastore session in the name of a user."""
        session = BackendSession(self, session_id, user)
        with self._guard:
            self._sessions[session.sysrepo_id] = session_id
        return session

    def start_session(self) -> Any:
        """A new sysrepo session."""
        return self._connection.start_session("running")

    def forget_session(self, session: BackendSession) -> None:
        """Drop what is known of a session that is closed."""
        with self._guard:
            self._sessions.pop(session.sysrepo_id, None)
            for datastore, lock in list(self.locks.items()):
                if lock.session_id == session.session_id:
                    del self.locks[datastore]

    def lock_holder(self, datastore: str) -> int:
        """NETCONF session-id of who holds a lock; 0 for another kind of client (RFC 6241 7.5)."""
        holder = native.lock_holder(self.connection, datastore, None)
        if holder is None:
            # Another client may hold only some modules.
            candidates = (
                native.lock_holder(self.connection, datastore, module)
                for module in self.modules.values()
            )
            holder = next((one for one in candidates if one is not None), None)
        return self.netconf_id(holder) if holder is not None else 0

    def netconf_id(self, sysrepo_id: int) -> int:
        """NETCONF session-id for sysrepo's own id; 0 for another kind of client."""
        with self._guard:
            return self._sessions.get(sysrepo_id, 0)

    def keep(self, modules: Iterable[str]) -> None:
        """Copy running to startup, one module after the other.

        The server does it, not the user: who may edit running needs no rights to startup.

        :raises NativeError: startup is locked, cannot be written, or would be invalid.
        """
        # One at a time, each with what is in running by then: the last one leaves the latest.
        with self._startup_guard:
            for module in modules:
                native.copy_config(self._startup.cdata, module, "running", self.timeouts.change_ms)

    def close(self) -> None:
        """Disconnect. Every session has to be closed before."""
        self._undo.close()

    def _enable_features(self) -> None:
        """Let the datastore's schema say what this server can do."""
        with native.library_context(self.connection) as context:
            modules = schemas.list_modules(context)
        enabled = next((m.features for m in modules if m.name == "ietf-netconf"), ())
        for feature in FEATURE_CAPABILITIES:
            if feature in enabled:
                continue
            try:
                self._connection.enable_module_feature("ietf-netconf", feature)
            except sysrepo.SysrepoError as error:
                LOG.warning("feature %s of ietf-netconf stays off: %s", feature, error)
            else:
                LOG.info("feature %s of ietf-netconf is now on", feature)

    def _load_library(self) -> _Library:
        content_id = native.content_id(self.connection)
        with native.library_context(self.connection) as context:
            modules = schemas.list_modules(context)
        return _Library(
            content_id,
            modules,
            schemas.list_submodules(self._folder, modules),
            {m.namespace: m.name for m in modules if m.implemented},
            build_capabilities(modules, f"0x{content_id:08x}"),
        )

    def _serve_monitoring(self) -> None:
        if monitoring.MODULE not in self._library.namespaces.values():
            LOG.warning("%s is not installed: no get-schema", monitoring.MODULE)
            return
        self._own_session.subscribe_oper_data_request(
            monitoring.MODULE, monitoring.ROOT, self._on_monitoring, strict=True
        )

    def _on_monitoring(self, xpath: str, private_data: Any) -> dict[str, Any]:
        # The library is not refreshed here: sysrepo holds its context during the callback.
        library = self._library
        return monitoring.netconf_state(
            capabilities=library.capabilities,
            schemas=(*library.modules, *library.submodules),
            sessions=self._records(),
            locks=dict(self.locks),
            statistics=self._statistics,
        )


class BackendSession:
    """The datastore for one NETCONF session and its user."""

    def __init__(self, backend: Backend, session_id: int, user: str) -> None:
        self.session_id = session_id
        self._backend = backend
        self._session = backend.start_session()
        self._datastore = "running"
        self._subscription: subscription.Subscription | None = None
        self.sysrepo_id = native.session_id(self._session.cdata)
        try:
            native.nacm_set_user(self._session.cdata, user)
        except NativeError:
            self._session.stop()
            raise

    @property
    def modules(self) -> Mapping[str, str]:
        """Namespace to name, implemented modules."""
        return self._backend.modules

    def close(self) -> None:
        """Release the session, its locks and its subscription."""
        try:
            self._unsubscribe()
            self._session.stop()
        finally:
            self._backend.forget_session(self)

    def authorize(self, operation: etree._Element) -> None:
        """Check that the user may execute the operation (RFC 8341 section 3.4.4)."""
        bare = messages.new_element(
            str(messages.namespace_of(operation)), messages.local_name(operation)
        )
        try:
            with self._context() as context:
                if messages.namespace_of(operation) == messages.NOTIFICATION_NS:
                    context = self._backend.notifications_context
                with self._operation(context, bare) as (_tree, node):
                    native.nacm_check_operation(self._session.cdata, node)
        except RpcError as failure:
            if failure.errors[0].tag is ErrorTag.ACCESS_DENIED:
                raise
            name = messages.local_name(operation)
            raise not_supported(f"<{name}> is not supported") from failure

    def get(self, xpaths: Sequence[str]) -> bytes:
        """Running configuration and operational state (RFC 6241 section 7.7)."""
        return self._read(xpaths, (("running", 0), ("operational", native.NO_CONFIG)))

    def get_config(self, datastore: str, xpaths: Sequence[str]) -> bytes:
        """Configuration of one datastore."""
        return self._read(xpaths, ((datastore, 0),))

    def edit_config(
        self,
        datastore: str,
        config: etree._Element,
        default_operation: str,
        test_option: str,
    ) -> None:
        """Apply an edit, or for "test-only" validate it; nothing is left behind after an error.

        sysrepo validates before it applies: "set" and "test-then-set" are the same. What is
        applied to running is copied to startup; only if that fails, the edit stands in spite of
        the error.
        """
        nodes = messages.children(config)
        self._switch(datastore)
        with self._context() as context:
            if default_operation == "replace":
                nodes = self._complete_replacement(context, nodes)
            if not nodes:
                return
            with self._parsed_edit(context, nodes) as tree:
                try:
                    self._apply_edit(tree, default_operation, test_option)
                except NativeError as error:
                    raise refusals.locate_edit(
                        error,
                        lambda: refusals.edit_nodes(tree, default_operation, self.modules),
                        lambda path: refusals.node_exists(
                            self._session.cdata, path, self._backend.timeouts.data_ms
                        ),
                    ) from error
            if datastore == "running" and test_option != "test-only":
                self._keep(nodes)

    def _keep(self, nodes: Sequence[etree._Element]) -> None:
        """Have the modules of an edit of running outlive a restart of the machine."""
        namespaces = {messages.namespace_of(node) or "" for node in nodes}
        try:
            self._backend.keep(sorted(self.modules[namespace] for namespace in namespaces))
        except NativeError as error:
            raise application_error(
                ErrorTag.OPERATION_FAILED,
                f"the edit is in force, but cannot be kept for the next boot: {error}",
            ) from error

    def _apply_edit(self, tree: Any, default_operation: str, test_option: str) -> None:
        try:
            native.edit_batch(self._session.cdata, tree, default_operation)
            if test_option == "test-only":
                native.validate(self._session.cdata, self._backend.timeouts.change_ms)
            else:
                native.apply_changes(self._session.cdata, self._backend.timeouts.change_ms)
        finally:
            native.discard_changes(self._session.cdata)

    def validate(self, datastore: str) -> None:
        """Validate a datastore (RFC 6241 section 8.6.4.1)."""
        self._switch(datastore)
        with self._context():
            native.validate(self._session.cdata, self._backend.timeouts.change_ms)

    def validate_config(self, config: etree._Element) -> None:
        """Validate a complete configuration."""
        xml = edits.serialize_nodes(messages.children(config))
        with self._context() as context, native.parsed_data(context, xml, validate=True):
            pass

    def lock(self, datastore: str) -> None:
        """Take the global lock. :raises RpcError: lock-denied with the holder's session-id."""
        self._switch(datastore)
        try:
            native.lock(self._session.cdata)
        except NativeError as error:
            if error.code != SrCode.LOCKED:
                raise self._rpc_error(error) from error
            holder = self._backend.lock_holder(datastore)
            raise protocol_error(
                ErrorTag.LOCK_DENIED,
                _locked_text(datastore, holder),
                ("session-id", str(holder)),
            ) from error
        now = datetime.now(UTC).isoformat(timespec="seconds")
        self._backend.locks[datastore] = monitoring.LockRecord(self.session_id, now)

    def unlock(self, datastore: str) -> None:
        """Release the global lock. :raises RpcError: this session does not hold it."""
        held = self._backend.locks.get(datastore)
        if held is None or held.session_id != self.session_id:
            raise application_error(
                ErrorTag.OPERATION_FAILED, f"{datastore} is not locked by this session"
            )
        self._switch(datastore)
        with self._context():
            native.unlock(self._session.cdata)
        self._backend.locks.pop(datastore, None)

    def subscribe(self, request: SubscriptionRequest, outbox: Outbox) -> None:
        """Put notifications into the outbox (RFC 5277), instead of an earlier one."""
        self._unsubscribe()
        with self._context() as context:
            self._subscription = subscription.Subscription(
                self._backend.connection, self._session.cdata, context, request, outbox
            )

    def _unsubscribe(self) -> None:
        if self._subscription is not None:
            self._subscription.close()
            self._subscription = None

    def get_schema(self, identifier: str, version: str | None, language: str) -> str:
        """Text of a YANG module."""
        return self._backend.schema(identifier, version, language)

    def rpc(self, operation: etree._Element) -> list[etree._Element]:
        """Call an RPC; its output."""
        return self._call(operation)

    def action(self, tree: etree._Element) -> list[etree._Element]:
        """Call an action within its data tree; its output (RFC 7950 section 7.15.2)."""
        return self._call(tree)

    def _call(self, element: etree._Element) -> list[etree._Element]:
        self._switch("operational")
        with (
            self._context() as context,
            self._operation(context, element) as (tree, node),
            self._output(tree, node) as output,
        ):
            first = native.operation_children(output, native.operation_names(node))
            xml = native.print_siblings(context, first)
        return messages.parse_fragment(xml)

    @contextmanager
    def _output(self, tree: Any, node: Any) -> Iterator[Any]:
        timeout_ms = self._backend.timeouts.rpc_ms
        try:
            with native.rpc_output(self._session.cdata, tree, timeout_ms) as output:
                yield output
        except NativeError as error:
            raise refusals.locate_action(error, node) from error

    def _read(self, xpaths: Sequence[str], sources: Sequence[tuple[str, int]]) -> bytes:
        with self._context() as context, native.merged_tree() as target:
            # One by one, what belongs together would be of several moments.
            union = " | ".join(xpaths)
            for datastore, options in sources if union else ():
                self._switch(datastore)
                with native.datastore_tree(
                    self._session.cdata,
                    union,
                    timeout_ms=self._backend.timeouts.data_ms,
                    options=options,
                ) as tree:
                    native.merge(context, target, tree)
            return native.print_siblings(context, target[0])

    def _switch(self, datastore: str) -> None:
        self._session.switch_datastore(datastore)
        self._datastore = datastore

    @contextmanager
    def _context(self) -> Iterator[Any]:
        """The libyang context; failures inside leave as RpcError."""
        with native.library_context(self._backend.connection) as context:
            try:
                yield context
            except NativeError as error:
                raise self._rpc_error(error) from error

    @contextmanager
    def _operation(self, context: Any, element: etree._Element) -> Iterator[tuple[Any, Any]]:
        with native.parsed_operation(context, edits.serialize_nodes([element])) as parsed:
            yield parsed

    @contextmanager
    def _parsed_edit(self, context: Any, nodes: Sequence[etree._Element]) -> Iterator[Any]:
        strict = edits.without_empty_removals(nodes)
        if strict:
            with native.parsed_data(context, edits.serialize_nodes(strict)):
                pass
        xml = edits.serialize_nodes(nodes)
        with native.parsed_data(context, xml, opaque=strict is not None) as tree:
            for parent, namespace, name in native.opaque_nodes(tree):
                self._check_empty_removal(context, parent, namespace, name)
            yield tree

    def _check_empty_removal(self, context: Any, parent: str, namespace: str, name: str) -> None:
        module = self.modules.get(namespace)
        if module is None:
            raise application_error(
                ErrorTag.UNKNOWN_NAMESPACE,
                f'No module with namespace "{namespace}" in the context.',
                ("bad-element", name),
                ("bad-namespace", namespace),
            )
        kind = native.schema_kind(context, f"{parent}/{module}:{name}")
        if kind is None:
            raise application_error(
                ErrorTag.UNKNOWN_ELEMENT,
                f'Node "{name}" not found in {parent or module}.',
                ("bad-element", name),
            )
        if kind == "list":
            raise application_error(
                ErrorTag.MISSING_ELEMENT,
                f'List instance "{name}" is missing its keys.',
                ("bad-element", name),
            )
        if kind != "leaf":
            raise bad_element(name, f"<{name}> has no value")

    def _complete_replacement(
        self, context: Any, nodes: Sequence[etree._Element]
    ) -> list[etree._Element]:
        with native.datastore_tree(
            self._session.cdata, "/*", timeout_ms=self._backend.timeouts.data_ms
        ) as tree:
            current = messages.parse_fragment(native.print_siblings(context, tree))

        def identity(node: etree._Element) -> object:
            module = self.modules.get(messages.namespace_of(node) or "")
            path = f"/{module}:{messages.local_name(node)}"
            kind = native.schema_kind(context, path) if module else None
            if kind == "leaf-list":
                return (node.text or "").strip()
            if kind != "list":
                return None
            found = {messages.local_name(child): child.text for child in messages.children(node)}
            return tuple((found.get(key) or "").strip() for key in native.list_keys(context, path))

        return edits.complete_replacement(nodes, current, identity)

    def _rpc_error(self, error: NativeError) -> RpcError:
        return to_rpc_error(
            refusals.replace_items(error, self._in_netconf_terms), self.modules, self._must_app_tag
        )

    def _in_netconf_terms(self, item: ErrorItem) -> ErrorItem:
        """A refusal because of a lock names the NETCONF session that holds it."""
        holder = locking_session(item)
        if holder is None:
            return item
        return replace(
            item, message=_locked_text(self._datastore, self._backend.netconf_id(holder))
        )

    def _must_app_tag(self, path: str, message: str) -> str | None:
        with native.library_context(self._backend.connection) as context:
            statements = native.musts(context, schema_path(path))
        return next(
            (app_tag or MUST_VIOLATION for text, app_tag in statements if text == message), None
        )


def _locked_text(datastore: str, holder: int) -> str:
    return f"{datastore} is locked by session {holder}"
