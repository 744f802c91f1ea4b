"""Who may work, who waits and who is refused, call by call; and a simulated server under three times what it can do."""

import math
import time

import pytest
from simulated_server import Simulation, ladder, summary

from serving.admission import Admission, Limit, Priority, Reason, Ticket
from serving.gate import Gate
from serving.query import Call


def ticket(arrived_s=0.0, *, due_s=1.0, **rest):
    return Ticket(arrived_s=arrived_s, due_s=due_s, **rest)


def busy(*, max_waiting=8, work_s=0.1, **rest):
    """One slot, which a call of the usual length has; give it and who has the slot."""
    admission = Admission(slots=1, max_waiting=max_waiting, **rest)
    first, second = ticket(), ticket()
    admission.enter(first, now_s=0.0)
    admission.leave(first, now_s=work_s)
    admission.enter(second, now_s=work_s)
    return admission, second


def test_a_free_slot_is_taken_at_once():
    admission = Admission(slots=2, max_waiting=0)
    calls = [ticket(), ticket(), ticket()]
    for call in calls:
        assert admission.enter(call, now_s=0.0) == [call]
    assert [call.started_s for call in calls] == [0.0, 0.0, None]
    assert calls[2].refusal.reason is Reason.LIMIT


def test_who_waits_is_taken_by_priority_and_then_by_who_is_due_first():
    admission, working = busy()
    low = ticket(due_s=0.5, priority=Priority.LOW)
    later, sooner = ticket(due_s=0.9), ticket(due_s=0.8)
    high = ticket(due_s=2.0, priority=Priority.HIGH)
    for call in (low, later, sooner, high):
        assert admission.enter(call, now_s=0.1) == []
    order = []
    while working:
        working = next(iter(admission.leave(working, now_s=0.2)), None)
        order.append(working)
    assert order == [high, sooner, later, low, None]
    assert admission.num_waiting == 0


def test_who_cannot_be_in_time_is_refused_at_once_and_told_when_to_come_back():
    admission, _ = busy(work_s=0.1)
    waiting, late = ticket(0.1, due_s=0.3, latest_s=0.25), ticket(0.1, due_s=0.3, latest_s=0.2)
    assert admission.enter(waiting, now_s=0.1) == []
    assert admission.enter(late, now_s=0.1) == [late]
    assert late.refusal.reason is Reason.LATE
    assert late.refusal.retry_after_ms == pytest.approx(200)


def test_who_has_waited_too_long_is_never_worked_on():
    admission, working = busy()
    late, in_time = ticket(due_s=0.3, latest_s=0.2), ticket(due_s=0.9)
    assert admission.enter(late, now_s=0.1) == admission.enter(in_time, now_s=0.1) == []
    assert admission.leave(working, now_s=0.25) == [late, in_time]
    assert late.refusal.reason is Reason.LATE
    assert late.started_s is None
    assert in_time.started_s == 0.25


def test_who_gives_up_is_forgotten_unless_it_was_its_turn_meanwhile():
    admission, working = busy()
    gone, taken = ticket(due_s=0.3, latest_s=0.2), ticket(due_s=0.5)
    admission.enter(gone, now_s=0.1)
    admission.enter(taken, now_s=0.1)
    admission.give_up(gone, now_s=0.2)
    assert gone.refusal.reason is Reason.LATE
    assert admission.leave(working, now_s=0.3) == [taken]
    admission.give_up(taken, now_s=0.4)
    assert taken.refusal is None


def test_who_could_never_be_in_time_is_answered_late_where_nobody_waits_and_else_refused():
    admission = Admission(slots=1, max_waiting=8)
    alone, second = (ticket(latest_s=-1.0, hopeless=True) for _ in range(2))
    assert admission.enter(alone, now_s=0.0) == [alone]
    assert alone.started_s == 0.0
    admission.enter(second, now_s=0.0)
    assert second.refusal.reason is Reason.LATE


def test_who_could_be_in_time_but_for_the_load_is_refused_even_where_a_slot_is_free():
    admission = Admission(slots=2, max_waiting=8)
    admission.enter(ticket(), now_s=0.0)
    call = ticket(latest_s=-1.0)
    admission.enter(call, now_s=0.0)
    assert call.refusal.reason is Reason.LATE


def test_where_nothing_else_is_worked_on_a_late_call_is_answered():
    admission = Admission(slots=1, max_waiting=8)
    call = ticket(latest_s=-1.0)
    assert admission.enter(call, now_s=0.0) == [call]
    assert call.refusal is None


def test_whose_client_will_have_left_is_refused_even_by_an_idle_server():
    admission = Admission(slots=1, max_waiting=8)
    gone = [ticket(latest_s=-1.0, useless_s=-1.0, hopeless=hopeless) for hopeless in (False, True)]
    for call in gone:
        assert admission.enter(call, now_s=0.0) == [call]
        assert call.refusal.reason is Reason.LATE
    there = ticket(latest_s=-1.0, useless_s=1.0)
    admission.enter(there, now_s=0.0)
    assert there.refusal is None


def test_one_client_after_another_waits_for_nobody_however_slowly_threads_take_turns():
    admission = Admission(slots=2, max_waiting=8)
    for number in range(200):
        call = ticket(arrived_s=0.1 * number, due_s=math.inf)
        admission.enter(call, now_s=0.1 * number + 0.05)
        admission.leave(call, now_s=0.1 * number + 0.06)
    assert call.price.of(1) == 0


def test_at_the_limit_the_newest_of_the_lowest_priority_goes():
    admission, _ = busy(max_waiting=3)
    admission.limit.value = 4.0
    low, older_low, normal = ticket(priority=Priority.LOW), ticket(priority=Priority.LOW), ticket()
    assert admission.enter(older_low, now_s=0.1) == []
    assert admission.enter(low, now_s=0.1) == [low]  # low ones may only have half of the room
    assert admission.enter(normal, now_s=0.1) == admission.enter(ticket(), now_s=0.1) == []
    assert admission.enter(ticket(), now_s=0.1) == [older_low]
    newest = ticket()
    assert admission.enter(newest, now_s=0.1) == [newest]
    assert {older_low.refusal.reason, newest.refusal.reason} == {Reason.LIMIT}


def test_the_limit_grows_while_nobody_waits_and_falls_while_all_do():
    limit = Limit(slots=2, most=100)
    start = limit.value
    for _ in range(4000):
        limit.learn(waited_s=0.0, worked_s=0.01, present=100)
    assert limit.value == 100 > start
    for _ in range(20_000):
        limit.learn(waited_s=0.09, worked_s=0.01, present=100)
    assert 4 <= limit.value < 12
    assert Limit(slots=2, most=2).value == 2


def test_calls_that_are_far_from_the_limit_say_nothing_of_it():
    limit = Limit(slots=2, most=100)
    start = limit.value
    limit.learn(waited_s=0.0, worked_s=0.01, present=1)
    assert limit.value == start


def queues(admission, *, num, start_s, work_s=0.01):
    """Let calls come all at once and work one after another; return them."""
    admission.limit.value = 2.0 * num
    calls = [ticket(start_s, due_s=start_s + 9, latest_s=start_s + 0.05 * (1 + place)) for place in range(num)]
    working = next(call for call in calls for call in admission.enter(call, now_s=start_s))
    for call in calls[1:]:
        admission.enter(call, now_s=start_s)
    for place in range(num):
        working = next(iter(admission.leave(working, now_s=start_s + work_s * (1 + place))), None)
    return calls


def test_time_has_a_price_while_calls_wait_that_is_forgotten_within_seconds():
    admission = Admission(slots=1, max_waiting=20)
    first = queues(admission, num=10, start_s=0.0)
    costs = [call.price.of(1) for call in first]
    assert costs == sorted(costs)
    assert costs[0] == 0 < costs[-1] < 0.1  # one answer per 10 ms is what there is to lose
    busy_level = admission.level(now_s=0.1)
    assert 0 < admission.level(now_s=10.0) < busy_level / 50
    longer = queues(admission, num=10, start_s=0.1)
    assert longer[-1].price.of(1) > costs[-1]


def test_calls_that_are_turned_away_give_time_a_price_though_nobody_waits():
    admission, working = busy(work_s=0.01)
    assert admission.level(now_s=0.01) == 0
    for _ in range(100):
        admission.turn_away(now_s=0.01)
    assert admission.num_waiting == 0
    level = admission.level(now_s=0.01)
    assert level > 0.1
    assert admission.level(now_s=10.0) < level / 50
    admission.leave(working, now_s=0.02)
    following = ticket(0.02)
    admission.enter(following, now_s=0.02)
    assert following.price.of(1) > 0


def test_a_gate_counts_who_is_turned_away():
    gate = Gate(slots=1, max_waiting=4)
    call = Call(arrived_s=time.perf_counter(), started_s=time.perf_counter())
    with gate.turn(ticket(call.arrived_s, due_s=math.inf), call):
        time.sleep(0.01)
    assert not gate.full(num_inside=1)
    assert gate.dimmer_level == 0
    assert all(gate.full(num_inside=1000) for _ in range(100))
    assert gate.dimmer_level > 0.1


def test_without_the_dimmer_time_costs_nothing():
    admission = Admission(slots=1, max_waiting=20, dimmer=False)
    admission.turn_away(now_s=0.0)
    assert {call.price.of(1e3) for call in queues(admission, num=10, start_s=0.0)} == {0.0}
    assert admission.level(now_s=1.0) == 0


def test_low_priorities_pay_most_for_time_and_high_ones_least():
    prices = {}
    for priority in Priority:
        admission = Admission(slots=1, max_waiting=20)
        queues(admission, num=8, start_s=0.0)
        call = ticket(0.1, priority=priority)
        admission.enter(call, now_s=0.1)
        prices[priority] = call.price.of(1)
    assert prices[Priority.LOW] == 4 * prices[Priority.NORMAL] == 16 * prices[Priority.HIGH] > 0


# What two slots of the simulated server do at its best rung for each budget, in calls per second.
SATURATION = 330.0


def figures(simulation, load, *, seconds=4.0):
    return summary(simulation.run(load * SATURATION, seconds), seconds)


def test_simulated_overload_costs_overlap_before_answers_and_is_over_when_it_is_over():
    simulation = Simulation()
    quiet = figures(simulation, 0.25)
    by_load = {load: figures(simulation, load) for load in (1.0, 3.0)}
    peak = max(each["goodput"] for each in by_load.values())
    assert by_load[3.0]["goodput"] >= 0.95 * peak
    assert by_load[3.0]["goodput"] > 2 * by_load[1.0]["goodput"]
    assert by_load[3.0]["shed_share"] < 0.15
    assert min(each["attainment"] for each in (quiet, *by_load.values())) >= 0.995
    assert quiet["overlap"] > by_load[1.0]["overlap"] > by_load[3.0]["overlap"] > 0.5
    simulation.now_s += 2
    figures(simulation, 0.25)
    assert simulation.admission.level(now_s=simulation.now_s) < 0.5
    assert figures(simulation, 0.25)["overlap"] > quiet["overlap"] - 0.03


def test_simulated_overload_without_the_dimmer_costs_answers_but_none_is_late():
    with_dimmer, without = (figures(Simulation(dimmer=dimmer), 3.0, seconds=3.0) for dimmer in (True, False))
    assert without["attainment"] >= 0.995
    assert without["shed_share"] > 0.5
    assert with_dimmer["goodput"] > 2 * without["goodput"]
    assert with_dimmer["overlap"] > without["overlap"]


def test_simulated_low_priorities_are_refused_first():
    calls = Simulation(dimmer=False).run(2 * SATURATION, 3.0)
    answered = {
        priority: sum(call.in_time for call in calls if call.priority is priority)
        / sum(call.priority is priority for call in calls)
        for priority in Priority
    }
    assert answered[Priority.HIGH] > answered[Priority.NORMAL] > answered[Priority.LOW]


def test_a_simulated_long_search_is_not_worth_whom_it_would_keep_from_answers():
    """Few come, so nobody waits for long; but half of them could not wait for the search that finds the last .05%."""
    rungs = ladder((0.6, 0.5), (0.9995, 1.0), (1.0, 20.0))
    calls = Simulation(slots=1, rungs=rungs).run(30.0, 20.0)
    assert summary(calls, 20.0)["attainment"] >= 0.995
    assert sum(call.overlap == 1 for call in calls[30:]) < 0.02 * len(calls)
    assert sum(call.code != "OK" for call in calls) < 0.01 * len(calls)
    alone = Simulation(slots=1, rungs=rungs).run(0.02, 3000.0)
    assert sum(call.overlap == 1 for call in alone) > 0.3 * len(alone)


def test_a_simulated_slow_down_is_learned_and_forgotten():
    simulation = Simulation()
    simulation.slower = 2.5
    learning, slow = figures(simulation, 0.25, seconds=6.0), figures(simulation, 0.25)
    assert slow["attainment"] > max(0.97, learning["attainment"])
    simulation.slower = 1.0
    figures(simulation, 0.25, seconds=20.0)
    assert figures(simulation, 0.25)["overlap"] > slow["overlap"]
    assert math.isclose(min(simulation.model.predict(100).search_ms), 1.28, rel_tol=0.2)
