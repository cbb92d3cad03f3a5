import torch
from continual_helpers import toy_learner, toy_task
from torch import nn
from torch.func import functional_call

from ghn.methods.continual.fisher import diagonal_fisher

LINEAR = nn.Linear(4, 3)


def batches(count=4096):
    x = torch.randn(count, 4, generator=torch.Generator().manual_seed(0))
    while True:
        yield from zip(x.split(256), torch.zeros(count).long().split(256), strict=True)


def test_fisher_of_a_linear_classifier_is_that_of_the_closed_form(monkeypatch):
    monkeypatch.setattr("ghn.methods.continual.fisher.INPUTS", 4096)
    torch.manual_seed(0)
    linear = nn.Linear(4, 3)
    parameters = {n: p.detach() for n, p in linear.named_parameters()}

    found = diagonal_fisher(
        lambda p, x: functional_call(linear, p, (x,)),
        parameters,
        batches(),
        torch.Generator().manual_seed(1),
    )

    x = torch.cat([next(iter([b]))[0] for b, _ in zip(batches(), range(16), strict=False)])
    p = linear(x).softmax(1).detach()
    expected = ((p * (1 - p))[:, :, None] * x.square()[:, None]).mean(0)
    torch.testing.assert_close(found["weight"], expected, rtol=0.15, atol=0.01)
    torch.testing.assert_close(found["bias"], (p * (1 - p)).mean(0), rtol=0.1, atol=0.01)


def test_what_vmap_refuses_is_done_one_by_one():
    parameters = {n: p.detach() for n, p in LINEAR.named_parameters()}
    x, y = torch.randn(6, 4), torch.zeros(6).long()

    def stubborn(p, x):
        out = functional_call(LINEAR, p, (x,))
        return out if x.sum().item() > -1e9 else -out

    def smooth(p, x):
        return functional_call(LINEAR, p, (x,))

    one, other = (
        diagonal_fisher(f, parameters, iter([(x, y)]), torch.Generator().manual_seed(0))
        for f in (stubborn, smooth)
    )

    for name in parameters:
        torch.testing.assert_close(one[name], other[name])


def test_ewc_adds_half_the_weighted_square_of_what_moved():
    learner = toy_learner("ewc", steps=10, strength=7.0)
    learner.learn("a", toy_task(0))
    fisher = learner._fisher["0.weight"].clone()
    with torch.no_grad():
        learner._groups[""]["0.weight"] += 0.3

    torch.testing.assert_close(learner._penalty(), 3.5 * 0.09 * fisher.sum())
    assert set(learner._fisher) == {"0.weight", "0.bias"}  # the head is the task's own


def test_one_penalty_has_the_gradient_of_those_of_all_earlier_tasks():
    learner = toy_learner("ewc", steps=10, strength=2.0)
    single = []
    for i in range(3):
        before = learner._fisher.get("0.weight", torch.zeros(())).clone()
        learner.learn(f"task {i}", toy_task(i))
        single.append((learner._fisher["0.weight"] - before,
                       learner._groups[""]["0.weight"].detach().clone()))  # fmt: skip
    weight = learner._groups[""]["0.weight"]
    with torch.no_grad():
        weight += 0.1

    (found,) = torch.autograd.grad(learner._penalty(), weight)

    expected = sum(2.0 * fisher * (weight - value) for fisher, value in single)
    torch.testing.assert_close(found, expected.detach(), rtol=1e-3, atol=1e-5)


def test_ewc_forgets_less_than_fine_tuning():
    kept = {}
    for name, settings in (("ewc", {"strength": 1000.0}), ("fine-tuning", {})):
        learner = toy_learner(name, **settings)
        for i in range(4):
            learner.learn(f"task {i}", toy_task(i))
        kept[name] = sum(learner.evaluate(toy_task(i, seed=1), f"task {i}") for i in range(2))

    assert kept["ewc"] > kept["fine-tuning"] + 0.1
