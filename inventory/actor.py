"""Actor: who asks for a write. It decides which fields may be written and stands in the audit of every change."""

from dataclasses import dataclass

from inventory.kind import DEVICE, INVENTORY, USER


@dataclass(frozen=True, slots=True)
class Actor:
    """type: `user`, `token` (a program with an API token), `integration`, `device`, `manager`, `inventory` or `system`. address: where the
    request of a person or a token came from. scope: the filter of hosts that its rights hold for; empty: all."""

    type: str
    name: str
    role: str = ""
    address: str = ""
    scope: str = ""

    @classmethod
    def user(cls, name: str, role: str, address: str = "", scope: str = "") -> "Actor":
        return cls("user", name, role, address, scope)

    @classmethod
    def token(cls, name: str, role: str, address: str = "", scope: str = "") -> "Actor":
        return cls("token", name, role, address, scope)

    @classmethod
    def integration(cls, name: str, scope: str = "") -> "Actor":
        return cls("integration", name, scope=scope)

    @classmethod
    def device(cls, host: str) -> "Actor":
        return cls("device", host)

    @classmethod
    def manager(cls, name: str) -> "Actor":
        return cls("manager", name)

    @classmethod
    def inventory(cls) -> "Actor":
        return cls("inventory", "inventory")

    @classmethod
    def system(cls) -> "Actor":
        """Enrollment and bootstrap: it may write what the user owns as well."""
        return cls("system", "system")

    def owns(self, owner: str) -> bool:
        """Whether it may write fields of this owner."""
        match self.type:
            case "user" | "token" | "integration":
                return owner == USER
            case "device":
                return owner == DEVICE
            case "inventory":
                return owner in (INVENTORY, DEVICE)
            case "system":
                return True
            case "manager":
                return owner == self.name
        return False

    @property
    def creates_as(self) -> str:
        """What `Kind.creators` calls it."""
        return {"manager": self.name, "integration": USER, "token": USER}.get(self.type, self.type)

    def to_json(self) -> dict[str, str]:
        return {key: value for key, value in (("type", self.type), ("name", self.name), ("address", self.address)) if value}
