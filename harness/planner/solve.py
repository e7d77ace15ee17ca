"""`plan solve`: from a data folder and hosts to a plan."""

from __future__ import annotations

from dataclasses import dataclass, replace

from harness.errors import PlanError
from harness.planner import advice, assembly, cases
from harness.planner.bound import lower_bound
from harness.planner.cases import Case
from harness.planner.constraints import resolve
from harness.planner.data_folder import DataFolder
from harness.planner.failures import check_failures
from harness.planner.fleet import FleetLoad, make_fleet
from harness.planner.hosts_file import HostsFile
from harness.planner.notes import assumptions, banners
from harness.planner.overhead import Overhead
from harness.planner.packed_case import Pack, PackedCase, Packer, Stop
from harness.planner.plan import PLAN_VERSION, Backtest, Failure, Fleet, Plan
from harness.planner.plan_inputs import PlanInputs, SolveOptions
from harness.planner.reduction import MEMORY, Profile
from harness.planner.today import HostsOfToday, OwnServers, hosts_of_today
from harness.planner.tornado import Swing, sensitivities, swings
from harness.planner.verification import Assignment, HostLoads, verify

_OWN_SHARE = 0.5  # of the solver's time: for the plan itself


def make_plan(
    folder: DataFolder,
    hosts: HostsFile,
    overhead: Overhead,
    options: SolveOptions,
    *,
    pack: Pack,
    stop: Stop,
) -> Plan:
    """Plan the machines of a data folder.

    stop: returns True after an interruption. Then the plan is the best so far, without what-ifs,
    tornado and backtest. Raises PlanError with cause and hint.
    """
    inputs = PlanInputs.read(folder, hosts, overhead, options)
    packings = _pack(inputs, pack, stop)
    loads = _verify(inputs, packings)
    failures = _failures(inputs, packings, stop)
    return replace(_assemble(inputs, packings, loads), failures=failures, interrupted=stop())


@dataclass(frozen=True)
class _Packings:
    """own: of the plan itself. backtest: on the first part of the trace. refused: what-ifs that
    cannot be planned, and why."""

    packer: Packer
    own: PackedCase
    variants: tuple[PackedCase, ...] = ()
    swings: tuple[tuple[Swing, PackedCase, PackedCase], ...] = ()
    backtest: PackedCase | None = None
    refused: tuple[str, ...] = ()

    @property
    def all(self) -> list[PackedCase]:
        """All that are packed on the whole trace."""
        swung = (one for _, *both in self.swings for one in both)
        return [self.own, *self.variants, *swung]


def _pack(inputs: PlanInputs, pack: Pack, stop: Stop) -> _Packings:
    machines = inputs.profile.machines
    constraints = resolve(inputs.hosts.constraints, machines.names, machines.groups)
    packer = Packer(pack, constraints, inputs.options.seed, stop)
    seconds = inputs.options.seconds
    own = packer.packed(inputs.base, inputs.profile, _OWN_SHARE * seconds)
    base = inputs.base
    variants = [*inputs.what_ifs, *cases.view_cases(base)]
    compared = swings(base, means_only=bool(inputs.profile.means_only.any()))
    each = (1 - _OWN_SHARE) * seconds / (len(variants) + 2 * len(compared) + 1)
    refused: list[str] = []

    def packed(case: Case, profile: Profile = inputs.profile) -> PackedCase | None:
        """None after an interruption, and for a case that cannot be planned."""
        if stop():
            return None
        try:
            result = packer.packed(case, profile, each)
        except PlanError as error:
            refused.append(f"{case.name} cannot be planned: {error.cause}.")
            return None
        return None if stop() else result

    done = [packed(one) for one in variants]
    told = tuple(refused)  # a bar of the tornado may be missing without a word
    pairs = [(one, packed(one.low), packed(one.high)) for one in compared]
    return _Packings(
        packer,
        own,
        tuple(one for one in done if one),
        tuple((swing, low, high) for swing, low, high in pairs if low and high),
        packed(base, inputs.profiles[1]) if len(inputs.profiles) > 1 else None,
        told,
    )


@dataclass(frozen=True)
class _Loads:
    """What hosts carry. by_packing: by the identity of a packing. backtest: in the rest."""

    by_packing: dict[int, HostLoads]
    today: FleetLoad | None
    backtest: HostLoads | None

    def of(self, packed: PackedCase) -> HostLoads:
        return self.by_packing[id(packed.packing)]


def _verify(inputs: PlanInputs, packings: _Packings) -> _Loads:
    """Read the samples once for all packings."""
    whole, own = inputs.windows[0], packings.own
    assignments: dict[int, Assignment] = {}
    for one in packings.all:
        detailed = one is own
        assignments.setdefault(id(one.packing), one.assignment(whole, detailed=detailed))
    others: list[Assignment] = []
    today: HostsOfToday | None = None
    servers: OwnServers | None = None
    if inputs.hosts.today and inputs.hosts.today.servers == "machines":
        servers = OwnServers(inputs.hosts.type_of(inputs.hosts.today.type), inputs.profile)
    elif today := hosts_of_today(inputs.profile.machines, inputs.hosts):
        others.append(today.assignment(inputs.profile, whole))
    if back := packings.backtest:
        checked = replace(
            back.assignment(inputs.windows[2], detailed=True),
            profile=inputs.profiles[2],
            resident=inputs.profiles[1].peak[:, MEMORY],
        )
        others.append(checked)
    loads = verify(inputs.folder, [*assignments.values(), *others], [servers] if servers else [])
    rest = loads[len(assignments) :]
    before = servers.load() if servers else today.load(rest[0]) if today else None
    return _Loads(dict(zip(assignments, loads, strict=False)), before, rest[-1] if back else None)


def _failures(inputs: PlanInputs, packings: _Packings, stop: Stop) -> tuple[Failure, ...]:
    """What happens if a host or a rack fails, also where the plan need not survive it."""
    own, model = packings.own, inputs.base.model
    racks = len({one.rack for one in own.hosts})
    problem = replace(
        packings.packer.problem(inputs.base, inputs.profile),
        spare=max(model.spare, 1),
        spare_racks=max(model.spare_racks, int(racks > 1)),
    )
    return check_failures(problem, own.hosts, stop=stop)


def _assemble(inputs: PlanInputs, packings: _Packings, loads: _Loads) -> Plan:
    own, base = packings.own, inputs.base

    def fleet(packed: PackedCase) -> Fleet:
        load = packed.fleet_load(loads.of(packed), packings.packer.constraints)
        return make_fleet(load, packed.case.site)

    after = fleet(own)
    before = make_fleet(loads.today, base.site) if loads.today else None
    constraints = packings.packer.constraints.constraints
    bound = lower_bound(own, constraints)
    hosts = assembly.planned_hosts(own, loads.of(own))
    variants = [
        assembly.variant(one.case, fleet(one), lower_bound(one, constraints))
        for one in (own, *packings.variants)
    ]
    machines = inputs.profile.machines
    back: Backtest | None = None
    if loads.backtest is not None:
        back = assembly.backtest(loads.backtest, inputs.profiles[1])
    return Plan(
        version=PLAN_VERSION,
        headline=assembly.headline(before, after, len(machines), bound),
        data=str(inputs.folder.path),
        currency=base.site.currency,
        before=before,
        after=after,
        bound=bound.hosts,
        bound_reason=bound.reason,
        interrupted=False,
        banners=banners(inputs, packings.refused, loads.of(own)),
        hosts=hosts,
        failures=(),
        variants=tuple(variants),
        backtest=back,
        advice=advice.advise(inputs.profile),
        moves=assembly.moves(inputs.profile, hosts),
        tornado=tuple(sensitivities(own, packings.swings, fleet)),
        demand=assembly.demand_rows(own),
        assumptions=assumptions(inputs),
        without_trace=inputs.profile.without_trace,
        left_out=machines.left_out,
    )
