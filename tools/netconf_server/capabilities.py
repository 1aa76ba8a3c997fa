"""What the server announces in its ``<hello>`` (RFC 6241 section 8, RFC 7950 section 5.6.4)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tools.netconf_server.messages import BASE_1_0, BASE_1_1

_CAPABILITY = "urn:ietf:params:netconf:capability:"
BASE_CAPABILITIES = (
    BASE_1_0,
    BASE_1_1,
    f"{_CAPABILITY}notification:1.0",
    f"{_CAPABILITY}interleave:1.0",
)
FEATURE_CAPABILITIES = {
    "writable-running": f"{_CAPABILITY}writable-running:1.0",
    "rollback-on-error": f"{_CAPABILITY}rollback-on-error:1.0",
    "validate": f"{_CAPABILITY}validate:1.1",
    "xpath": f"{_CAPABILITY}xpath:1.0",
}
"""Feature of ``ietf-netconf`` to the capability it stands for (RFC 6241 section 8 and appendix C).

Each is carried out in ``operations.py``; extend both together. One is announced if the datastore
has its feature enabled, so that the hello and the YANG library agree.
"""


@dataclass(frozen=True)
class ModuleInfo:
    """One YANG module or submodule of the datastore."""

    name: str
    revision: str
    """Empty if the module has none."""
    namespace: str
    implemented: bool
    yang_1_1: bool
    features: tuple[str, ...] = ()
    """Enabled features."""


def module_capability(module: ModuleInfo) -> str:
    """The hello entry of a YANG 1.0 module (RFC 6020 section 5.6.4)."""
    query = f"module={module.name}"
    if module.revision:
        query += f"&revision={module.revision}"
    if module.features:
        query += f"&features={','.join(module.features)}"
    return f"{module.namespace}?{query}"


def build_capabilities(modules: Iterable[ModuleInfo], content_id: str) -> tuple[str, ...]:
    """All capabilities: the protocol's, the YANG library's, and one for each YANG 1.0 module.

    YANG 1.1 modules are found through the YANG library alone. ``content_id`` is the value of the
    library's own content-id leaf.
    """
    modules = tuple(modules)
    implemented = {module.name: module for module in modules if module.implemented}
    library: tuple[str, ...] = ()
    if "ietf-yang-library" in implemented:
        revision = implemented["ietf-yang-library"].revision
        library = (
            f"{_CAPABILITY}yang-library:1.1?revision={revision}&content-id={content_id}",
            f"{_CAPABILITY}yang-library:1.0?revision={revision}&module-set-id={content_id}",
        )
    base = implemented.get("ietf-netconf")
    enabled = (
        capability
        for feature, capability in FEATURE_CAPABILITIES.items()
        if base is not None and feature in base.features
    )
    listed = (
        module_capability(module)
        for module in sorted(modules, key=lambda module: module.name)
        if module.implemented and not module.yang_1_1
    )
    return (*BASE_CAPABILITIES, *enabled, *library, *listed)
