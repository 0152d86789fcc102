"""Every kind there is, one visible list. A duplicate name, collection or prefix fails at import."""

from inventory.kind import Kind
from inventory.kinds.command import COMMAND, CommandRow
from inventory.kinds.component import COMPONENT, ComponentRow
from inventory.kinds.config import CONFIG, ConfigRow
from inventory.kinds.enrollment_token import ENROLLMENT_TOKEN, EnrollmentTokenRow
from inventory.kinds.host import HOST, HostRow
from inventory.kinds.host_config import HOST_CONFIG, HostConfigRow
from inventory.kinds.notification import NOTIFICATION, NotificationRow
from inventory.kinds.region import REGION, RegionRow
from inventory.kinds.site import SITE, SiteRow
from inventory.rows import ResourceRow

REGISTRY: tuple[tuple[Kind, type[ResourceRow]], ...] = (
    (REGION, RegionRow),
    (SITE, SiteRow),
    (HOST, HostRow),
    (COMPONENT, ComponentRow),
    (CONFIG, ConfigRow),
    (HOST_CONFIG, HostConfigRow),
    (COMMAND, CommandRow),
    (NOTIFICATION, NotificationRow),
    (ENROLLMENT_TOKEN, EnrollmentTokenRow),
)

KINDS: tuple[Kind, ...] = tuple(kind for kind, _ in REGISTRY)
ROWS: dict[str, type[ResourceRow]] = {kind.name: row for kind, row in REGISTRY}
BY_NAME: dict[str, Kind] = {kind.name: kind for kind in KINDS}
BY_COLLECTION: dict[str, Kind] = {kind.collection: kind for kind in KINDS}
BY_PREFIX: dict[str, Kind] = {kind.prefix: kind for kind in KINDS}

for _index in (BY_NAME, BY_COLLECTION, BY_PREFIX):
    if len(_index) != len(KINDS):
        raise ValueError(f"a kind's name, collection or prefix is there twice: {sorted(_index)}")
