"""The plan: a worked example for each rule, beside the case that differs by one thing and goes otherwise."""

import sys
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pytest

from rayunlearn.errors import BadInput
from rayunlearn.scheduling.costs import CostSettings, PastRun
from rayunlearn.scheduling.plan import Plan, PlanSettings, Refusal, plan
from rayunlearn.scheduling.queue import Lineage, Pending, RunUnderWay
from rayunlearn.scheduling.requests import Request

NOW = datetime(2026, 3, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
BOTH = ("retain", "weights")


@dataclass(frozen=True)
class Declared:
    data_access: frozenset[str]
    granularity: frozenset[str]


def declared(access, kinds="classes"):
    """A method as the registry would declare it."""
    return Declared(frozenset(access.split()), frozenset(kinds.split()))


METHODS = {
    "gkt": declared("weights"),
    "ispf": declared("weights"),
    "relabel": declared("weights forget retain", "classes samples"),
    "retrain": declared("retain", "classes samples"),
}
SETTINGS = PlanSettings(order=("gkt", "ispf", "relabel"), costs=CostSettings(default_s=3600.0))


def asked(
    name,
    *target,
    due=None,
    received=-10,
    lineage="a",
    access=("weights",),
    priority=0,
    method=None,
    kind="classes",
):
    """A pending request; times are hours from now."""
    request = Request(
        request_id=name,
        lineage=lineage,
        target=target,
        received_at=NOW + received * HOUR,
        deadline=None if due is None else NOW + due * HOUR,
        data_access=access,
    )
    object.__setattr__(request, "kind", kind)  # whichever kinds requests may have by now
    return Pending(request=request, priority=priority, method=method)


def lineage(name="a", *, forgotten=(), num_classes=10, kept=1.0, under_way=None):
    """A lineage of ten classes."""
    return Lineage(
        name=name,
        version=f"version-{name}",
        recipe="digits",
        num_classes=num_classes,
        forgotten=forgotten,
        kept=kept,
        under_way=under_way,
    )


def planned(*pending, lineages=(), history=(), refusals=(), slots=4, now=NOW, **changes) -> Plan:
    """The plan for some requests, on lineages of their own unless others are given."""
    names = sorted({p.request.lineage for p in pending})
    return plan(
        pending,
        lineages=lineages or [lineage(name) for name in names],
        methods=METHODS,
        history=history,
        refusals=refusals,
        slots=slots,
        settings=replace(SETTINGS, **changes),
        now=now,
    )


def refused(*names, method="gkt", attempt=1, reason="gate: too little retained"):
    """A refused run."""
    return Refusal(request_ids=names, method=method, attempt=attempt, reason=reason)


def served(result):
    """Who is served together, run by run."""
    return [start.request_ids for start in result.starts]


# ---------------------------------------------------------------------------------------------- the order


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (asked("z", 0, due=1, received=-1), asked("b", 1, due=2, received=-9, priority=5)),
        (asked("z", 0, due=9), asked("b", 1, priority=5)),
        (asked("z", 0, due=1, priority=1), asked("b", 1, due=1, received=-99)),
        (asked("z", 0, priority=1), asked("b", 1, received=-99)),
        (asked("z", 0, due=1, received=-99), asked("b", 1, due=1)),
        (asked("b", 0), asked("z", 1)),
    ],
    ids=["deadline", "any deadline", "priority", "priority without deadline", "receipt", "id"],
)
def test_the_order_is_deadline_priority_receipt_id(first, second):
    """Each part of the order decides where those before it are equal, against all those after it."""
    result = planned(second, first, max_classes=1)
    assert served(result) == [(first.request.request_id,)]
    assert [wait.request_id for wait in result.waits] == [second.request.request_id]


def test_a_deadline_that_had_passed_at_receipt_counts_as_the_receipt():
    """It does not go before what was received and due earlier, however long ago it was."""
    late, due = asked("late", 0, received=-1, due=-99), asked("due", 1, received=-9, due=-2)
    assert served(planned(late, due, max_classes=1)) == [("due",)]
    later = asked("due", 1, received=-9, due=1)
    assert served(planned(late, later, max_classes=1)) == [("late",)], "negative control"


def test_who_waited_longest_wait_is_due():
    """A request without a deadline outranks deadlines from `longest_wait` on, and not an hour before."""
    urgent = asked("urgent", 1, due=1)
    assert served(planned(asked("old", 0, received=-720), urgent, max_classes=1)) == [("old",)]
    assert served(planned(asked("old", 0, received=-719), urgent, max_classes=1)) == [("urgent",)]


# ----------------------------------------------------------------------------------------------- together


def test_requests_that_wait_together_are_coalesced():
    """Requests of one lineage and kind become one run over all their classes, in the order of the queue."""
    (start,) = planned(asked("p", 4, 1), asked("q", 7, due=5)).starts
    assert (start.request_ids, start.target, start.method) == (("q", "p"), (1, 4, 7), "gkt")
    assert start.parent_version == "version-a"
    assert start.data_access == ("weights",)
    assert start.attempt == 1


def test_a_coalesced_run_has_what_every_request_allows():
    """The data access of a run is the intersection, and its method needs no more."""
    together = planned(asked("p", 1, access=BOTH), asked("q", 2, access=("forget", "weights"))).starts
    assert [(s.request_ids, s.data_access, s.method) for s in together] == [(("p", "q"), ("weights",), "gkt")]
    apart = planned(asked("p", 1, access=("retain",)), asked("q", 2, access=("weights",)))
    assert [(s.request_ids, s.data_access, s.method) for s in apart.starts] == [
        (("p",), ("retain",), "retrain")
    ]


def test_company_does_not_change_the_method():
    """A request that asks for a method is joined by who would have that method, and by nobody else."""
    ispf = asked("p", 1, due=1, method="ispf")
    assert served(planned(ispf, asked("q", 2))) == [("p",)]
    assert served(planned(ispf, asked("q", 2, method="ispf"))) == [("p", "q")]
    gkt = asked("p", 1, due=1, method="gkt")
    assert served(planned(gkt, asked("q", 2))) == [("p", "q")]


def test_those_who_cannot_join_are_passed_over():
    """One that cannot join keeps nobody behind it from joining, and is next."""
    crowd = asked("p", 1, due=1), asked("other", 2, due=2, access=("retain",)), asked("q", 3, due=3)
    result = planned(*crowd)
    assert served(result) == [("p", "q")]
    assert [wait.request_id for wait in result.waits] == ["other"]


def test_kinds_do_not_mix():
    """Samples and classes are forgotten in runs of their own, samples by a method that can."""
    access = ("forget", "retain", "weights")
    whole, some = asked("p", 1, due=1, access=access), asked("q", 1, access=access, kind="samples")
    assert served(planned(whole, some)) == [("p",)]
    both = asked("p", 1, access=access, method="relabel"), asked("q", 1, access=access, kind="samples")
    assert served(planned(*both)) == [("p",)]  # although both would be served by the same method
    (start,) = planned(some, asked("r", 1, 5000, access=access, kind="samples")).starts
    assert (start.request_ids, start.target, start.method) == (("q", "r"), (1, 5000), "relabel")


def test_max_classes_bounds_what_is_coalesced_and_no_single_request():
    """At most `max_classes` are forgotten together; a class asked for twice counts once."""
    singles = [asked(name, c, due=c + 1) for c, name in enumerate("pqrs")]
    assert served(planned(*singles, max_classes=3)) == [("p", "q", "r")]
    assert served(planned(*singles, asked("twice", 0, due=9), max_classes=4)) == [
        ("p", "q", "r", "s", "twice")
    ]
    assert served(planned(asked("big", 0, 1, 2, 3, due=1), *singles[:1], max_classes=2)) == [("big", "p")]


def test_two_classes_are_left():
    """Coalescing stops before it would leave fewer than two classes."""
    three, four = ([asked(f"r{c}", c, due=c + 1) for c in range(n)] for n in (2, 3))
    assert served(planned(*three, lineages=[lineage(num_classes=4)])) == [("r0", "r1")]
    result = planned(*four, lineages=[lineage(num_classes=4)])
    assert served(result) == [("r0", "r1")]
    assert "once those before it are served, it would leave 1 of 4" in result.waits[0].why.replace(
        "Once", "once"
    )


def test_a_class_that_is_forgotten_by_then_is_nothing_to_wait_for():
    """A request that those before it leave nothing of is told so, and is in none of the runs to come."""
    crowd = asked("p", 1, due=5), asked("q", 2, due=6), asked("twice", 1, due=7)
    waits = planned(*crowd, max_classes=1).waits
    assert waits[0].why == "Its lineage serves p first. Its run is expected to begin in 60.0 min."
    assert waits[1].why.endswith("Once those before it are served, nothing is left to forget of classes 1.")


# ------------------------------------------------------------------------------------------- side by side


def test_lineages_run_side_by_side_as_slots_allow():
    """Free slots go to the lineages whose first request comes first; each has one run."""
    crowd = [
        asked(f"{name}{c}", c, lineage=name, due=due)
        for name, due in (("a", 3), ("b", 1), ("c", 2))
        for c in (0, 1)
    ]
    result = planned(*crowd, slots=2, max_classes=1)
    assert served(result) == [("b0",), ("c0",)]
    assert served(planned(*crowd, slots=9, max_classes=1)) == [("b0",), ("c0",), ("a0",)]
    nothing = planned(*crowd, slots=0)
    assert served(nothing) == []
    assert {wait.why.split(" Its ")[0] for wait in nothing.waits} == {"No slot is free."}


def test_a_lineage_has_one_run_at_a_time():
    """While a run is under way its lineage waits, and the slot goes to another."""
    running = RunUnderWay(request_ids=("x", "y"), target=(5,), method="gkt", started_at=NOW - HOUR / 2)
    crowd = asked("p", 1, due=1), asked("q", 1, lineage="b")
    result = planned(*crowd, lineages=[lineage(under_way=running), lineage("b")], slots=1)
    assert served(result) == [("q",)]
    assert result.waits[0].why.startswith("Its lineage has a run under way, for x, y.")


# ----------------------------------------------------------------------------------------------- deadlines


def test_a_deadline_that_cannot_be_met_is_flagged_and_the_request_served():
    """An hour's run meets a deadline in an hour and not one a minute earlier; it is begun all the same."""
    assert planned(asked("p", 1, due=1)).flags == ()
    result = planned(asked("p", 1, due=59 / 60))
    assert served(result) == [("p",)]
    assert [(flag.request_id, flag.expected_s) for flag in result.flags] == [("p", 3600.0)]
    assert "is in 59.0 min; it is expected to be served in 60.0 min" in result.flags[0].why


def test_what_is_queued_before_counts():
    """The second run of a lineage ends after two hours, and half an hour later behind half a run."""

    def late(first, second, **more):
        crowd = asked("p", 1, due=first), asked("q", 2, due=second)
        return [(flag.request_id, flag.expected_s) for flag in planned(*crowd, **more).flags]

    assert late(1, 2, max_classes=1) == []
    assert late(1, 1.9, max_classes=1) == [("q", 7200.0)]
    assert late(1, 1.9) == []  # one run serves both
    running = RunUnderWay(request_ids=("x",), target=(5,), method="gkt", started_at=NOW - HOUR / 2)
    behind = {"max_classes": 1, "lineages": [lineage(under_way=running)]}
    assert late(1.5, 2.5, **behind) == []
    assert late(1.5, 2.4, **behind) == [("q", 9000.0)]


def test_what_is_to_come_is_expected_of_the_lineage_as_it_will_be():
    """0.85 is worn to 0.81 by the first run; the second is retraining, in its own time."""
    past = {"recipe": "digits", "forgotten": 1, "passed": True}
    history = [PastRun(method="gkt", seconds=600, kept=0.95, **past)] * 3
    history += [PastRun(method="retrain", seconds=9000, kept=1.0, **past)] * 3
    crowd = asked("p", 1, due=1, access=BOTH), asked("q", 2, due=2, access=BOTH)
    for kept, late in ((0.85, [("q", 9600.0)]), (0.95, [])):
        worn = [lineage(kept=kept)]
        result = planned(*crowd, lineages=worn, history=history, max_classes=1, order=("gkt",))
        assert [start.method for start in result.starts] == ["gkt"]
        assert [(flag.request_id, flag.expected_s) for flag in result.flags] == late


def test_other_lineages_before_it_count_where_slots_are_few():
    """With one slot the second lineage ends after two hours, with two after one."""
    crowd = asked("p", 1, due=1), asked("q", 1, due=1.5, lineage="b")
    assert [f.request_id for f in planned(*crowd, slots=1).flags] == ["q"]
    assert planned(*crowd, slots=2).flags == ()


# ---------------------------------------------------------------------------------------------- escalation


def test_a_refused_request_goes_to_the_next_method_then_to_retrain_then_to_a_person():
    """Each refusal alone takes the next method that the data access allows, never retrain for zero-shot."""
    names = ["gkt", "ispf", "retrain"]
    history = [refused("p", method=method, attempt=i + 1) for i, method in enumerate(names)]
    for count, method in enumerate(names):
        (start,) = planned(asked("p", 1, access=BOTH), refusals=history[:count]).starts
        assert (start.method, start.attempt) == (method, count + 1)
    assert start.why.count("was refused: gate: too little retained.") == 2
    (park,) = planned(asked("p", 1, access=BOTH), refusals=history).parks
    assert "No method is left" in park.why and park.why.count("was refused") == 3
    (park,) = planned(asked("p", 1), refusals=history[:2]).parks
    assert "allows weights" in park.why


def test_a_refused_coalesced_run_is_split_before_it_escalates():
    """What was refused in company is served alone by the method that it had, and then escalates."""
    crowd = asked("p", 1, due=1), asked("q", 2, due=2), asked("new", 3, due=3)
    company = refused("p", "q")
    (start,) = planned(*crowd, refusals=[company]).starts
    assert (start.request_ids, start.method, start.attempt) == (("p",), "gkt", 2)
    assert "Attempt 1 by gkt together with 1 more was refused" in start.why
    (start,) = planned(*crowd, refusals=[company, refused("p", attempt=2)]).starts
    assert (start.request_ids, start.method, start.attempt) == (("p",), "ispf", 3)
    (start,) = planned(*crowd[1:], refusals=[company]).starts
    assert (start.request_ids, start.method) == (("q",), "gkt")
    assert served(planned(asked("first", 4, due=0), *crowd, refusals=[company])) == [("first", "new")]


def test_a_method_asked_for_comes_first_and_the_rest_follow():
    """A refusal of the method asked for escalates like any other; the method is not tried again."""
    request = asked("p", 1, method="ispf")
    assert planned(request).starts[0].method == "ispf"
    assert planned(request, refusals=[refused("p", method="ispf")]).starts[0].method == "gkt"
    both = [refused("p", method="ispf"), refused("p", method="gkt", attempt=2)]
    assert len(planned(request, refusals=both).parks) == 1


@pytest.mark.parametrize(
    ("request_", "why"),
    [
        (asked("p", 1, method="gtk"), "There is no method 'gtk'; there is 'gkt'"),
        (
            asked("p", 1, method="retrain"),
            "Method 'retrain', which is asked for, serves classes, samples with",
        ),
        (asked("p", 1, kind="samples"), "No method of gkt, ispf, relabel, retrain may serve it"),
        (asked("p", 1, access=("forget",)), "a request for classes that allows forget"),
        (asked("p", 12), "classes 0 to 9, not 12"),
        (asked("p", 3), "Nothing is left to forget of classes 3"),
        (asked("p", *range(2, 9)), "It would leave 1 of 10 classes"),
        (asked("p", 1, lineage="b"), "There is no lineage 'b'; there is 'a'"),
    ],
)
def test_what_cannot_be_served_is_parked_and_keeps_nobody_back(request_, why):
    """A request that can never be served as things stand is parked with the reason; the next is served."""
    lines = [lineage(forgotten=(3, 9, 0))]
    result = planned(request_, asked("good", 1, due=9), lineages=lines)
    assert [park.request_id for park in result.parks] == ["p"]
    assert why in result.parks[0].why
    assert served(result) == [("good",)]


def test_a_class_forgotten_already_is_not_forgotten_again():
    """A request of which a part is forgotten is served for the rest."""
    (start,) = planned(asked("p", 3, 4), lineages=[lineage(forgotten=(3,))]).starts
    assert start.target == (4,)


def test_a_parked_request_is_flagged_once_its_deadline_has_passed():
    """Nothing is expected of a parked request, but a deadline that has passed has passed."""
    late, soon = (asked("p", 1, due=due, received=-99, access=("forget",)) for due in (-1, 1))
    (flag,) = planned(late).flags
    assert flag.expected_s is None and "60.0 min ago; no run is in sight" in flag.why
    assert planned(soon).flags == ()


# --------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("make", "thing"),
    [
        (lambda: planned(asked("p", 1), asked("p", 2)), "pending request"),
        (lambda: planned(asked("p", 1), lineages=[lineage(), lineage()]), "lineage"),
        (lambda: planned(asked("p", 1), order=("gtk",)), "method of the plan"),
        (lambda: planned(asked("p", 1), slots=-1), "slots"),
        (lambda: planned(asked("p", 1), now=NOW.replace(tzinfo=None)), "now"),
        (lambda: planned(asked("p", 1), order=("gkt", "gkt")), "plan.order"),
        (lambda: planned(asked("p", 1), order=("gkt", "retrain")), "plan.order"),
        (lambda: planned(asked("p", 1), max_classes=0), "plan.max_classes"),
        (lambda: planned(asked("p", 1), longest_wait_days=float("nan")), "plan.longest_wait_days"),
        (lambda: asked("p", 1, priority=1.5), "priority"),
        (lambda: Pending(request=Request(request_id="p", target=(1,))), "received_at"),
    ],
)
def test_contradictions_are_refused(make, thing):
    """What cannot be planned at all is refused by name, at once."""
    with pytest.raises(BadInput) as error:
        make()
    assert error.value.thing == thing


def test_a_request_in_a_run_under_way_does_not_wait():
    """A request that is both waiting and running would be served twice; it is refused."""
    running = RunUnderWay(request_ids=("p",), target=(1,), method="gkt", started_at=NOW)
    with pytest.raises(BadInput, match="run under way, as this one on lineage 'a'"):
        planned(asked("p", 1), lineages=[lineage(under_way=running)])


# ------------------------------------------------------------------------------------------------- work


def _calls(count):
    """How many calls of Python functions a plan for so many requests of one lineage takes."""
    access = [("weights",), BOTH, ("retain",), ("forget", "retain")]
    crowd = [
        asked(f"r{i}", i % 9000, due=(i * 7919) % count, access=access[i % 4], priority=i % 3)
        for i in range(count)
    ]
    calls = 0

    def count_calls(_frame, event, _arg):
        nonlocal calls
        calls += event == "call"

    sys.setprofile(count_calls)
    try:
        planned(*crowd, lineages=[lineage(num_classes=9002)], max_classes=2)
    finally:
        sys.setprofile(None)
    return calls


def test_work_grows_with_the_queue_and_not_with_its_square():
    """Twice the requests on one lineage, of kinds that cannot join each other, take about twice the calls."""
    assert _calls(1600) < 2.2 * _calls(800)
