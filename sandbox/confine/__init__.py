"""Policy to prepared bytes and integers: seccomp program, Landlock rights, ids, capabilities; host probe and tiers."""

from virtiofs_sandbox.confine.host import HostProbe, probe_host
from virtiofs_sandbox.confine.plan import LandlockPlan, LaunchPlan, Tier
from virtiofs_sandbox.confine.prepare import CannotConfineError, prepare

__all__ = ["CannotConfineError", "HostProbe", "LandlockPlan", "LaunchPlan", "Tier", "prepare", "probe_host"]
