"""All Tortoise models in one module, which is what Tortoise is pointed at."""

from inventory import tables
from inventory.kinds import ROWS

__models__ = [
    *ROWS.values(),
    tables.ChangeIn,
    tables.ProcessMetrics,
    tables.LogGap,
    tables.ChainHead,
    tables.Stray,
    tables.Cursor,
    tables.HostLabels,
    tables.HostFacts,
    tables.DeviceLiveness,
    tables.DeviceStream,
    tables.DeviceIdentity,
    tables.DeviceTrust,
    tables.Certificate,
    tables.EnrollmentRequest,
    tables.Secret,
    tables.VaultState,
    tables.Poison,
    tables.DeviceLog,
    tables.IngestLease,
    tables.IngestReplica,
    tables.Work,
    tables.HostTold,
    tables.User,
    tables.RecoveryCode,
    tables.SignInBegun,
    tables.Session,
    tables.ApiToken,
    tables.Integration,
    tables.Idempotency,
]
