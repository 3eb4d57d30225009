"""However many processes share a batch, their step is the whole batch's."""

import pytest
import torch
import torch.distributed as dist
from group import Group
from small import seeded
from speller import small_pronouncer
from torch import nn

from annotated_decoder import scaling_out
from annotated_decoder.pronunciation.recipe import distillation, taught
from annotated_decoder.scaling_out import (
    activation_bytes,
    gather,
    load_shards,
    save_shards,
    share_of,
    shared,
    spread,
    training_bytes,
)
from annotated_decoder.trained.meeting import processes
from annotated_decoder.training import Example, TrainingConfig, collate, loss_of, optimizers_for, train

ONE_LONG = [1, 1, 2, 1, 9, 1, 3, 1, 1, 2, 1]    # target lengths, very unequal
EXAMPLES = [Example([3 + i % 5] * (1 + i % 4), [3 + (i + j) % 5 for j in range(n)]) for i, n in enumerate(ONE_LONG)]


def test_the_shares_of_all_processes_are_the_batch():
    for world in (1, 2, 3, 8, 64):
        batch = collate(EXAMPLES)
        shares = [share_of(batch, rank, world) for rank in range(world)]
        for rank, share in enumerate(shares):
            mine = EXAMPLES[rank::world] or EXAMPLES[:1]    # every process takes part in a step
            for found, expected in zip(share, collate(mine), strict=True):
                assert torch.equal(found, expected)
        rows = [tuple(map(tuple, example)) for rank in range(world) for example in EXAMPLES[rank::world]]
        assert sorted(rows) == sorted(tuple(map(tuple, example)) for example in EXAMPLES)


def as_many(monkeypatch, world, objective, batch, config, step=0, model=None):
    "What each of `world` processes, played one after the other, has as value, and the mean of their gradients."
    parts, values, gradients = [], [], []

    def play(rank, all_reduce):
        model.zero_grad()
        with monkeypatch.context() as played:
            played.setattr(scaling_out.dist, "get_rank", lambda: rank)
            played.setattr(scaling_out.dist, "get_world_size", lambda: world)
            played.setattr(scaling_out.dist, "all_reduce", all_reduce)
            return shared(objective)(model.train(), batch, config, step)

    for rank in range(world):
        with torch.no_grad():
            play(rank, lambda tensor: parts.append(tensor.clone()))
    for rank in range(world):
        value = play(rank, lambda tensor: tensor.copy_(torch.stack(parts).sum(0)))
        value.backward()
        values.append(value.item())
        gradients.append([p.grad.clone() for p in model.parameters()])
    return values, [torch.stack(each).mean(0) for each in zip(*gradients, strict=True)]


def objectives():
    teacher = small_pronouncer(seed=5, d_model=8)
    return {"listed": loss_of, "taught": distillation(taught([teacher], EXAMPLES))}


@pytest.mark.parametrize(
    "world, name, smoothing",
    [(2, "listed", 0.0), (8, "listed", 0.1), (64, "listed", 0.1), (2, "taught", 0.1), (8, "taught", 0.0)],
)
def test_the_processes_mean_gradient_is_the_whole_batchs(monkeypatch, world, name, smoothing):
    model, batch = small_pronouncer(d_model=8).model.double(), collate(EXAMPLES)
    objective, config = objectives()[name], TrainingConfig(smoothing=smoothing)
    whole = objective(model.train(), batch, config, 0)
    expected = torch.autograd.grad(whole, list(model.parameters()))
    values, found = as_many(monkeypatch, world, objective, batch, config, model=model)
    assert values == [values[0]] * world == pytest.approx([whole.item()] * world, rel=1e-12)
    largest = max(gradient.abs().max() for gradient in expected)
    for one, other in zip(found, expected, strict=True):
        assert (one - other).abs().max() < 1e-12 * largest
    means = [objective(model, share_of(batch, rank, world), config, 0).item() for rank in range(world)]
    assert abs(sum(means) / world - whole.item()) > 1e-3    # what leaving out the weights would give


def test_each_process_and_each_step_has_dropout_of_its_own(monkeypatch):
    drawn = []

    def note(model, batch, config, step):
        drawn.append(step)
        return loss_of(model, batch, config, step)

    model, config = small_pronouncer(d_model=8, dropout=0.3).model, TrainingConfig()
    twins, alone = collate([EXAMPLES[4]] * 2), collate(EXAMPLES)
    for step in range(4):
        as_many(monkeypatch, 2, note, twins, config, step, model)
    assert len(set(drawn)) == 2 * 4
    losses = [loss_of(model.train(), share_of(twins, 0, 2), config, step).item() for step in drawn[:2]]
    assert losses[0] != losses[1]
    for step in range(3):    # a process alone draws as `train` does
        values, _ = as_many(monkeypatch, 1, loss_of, alone, config, step, model)
        assert values == [loss_of(model.train(), alone, config, step).item()]


def test_another_way_to_spread_is_refused():
    with pytest.raises(ValueError, match="how is 'zero'; give 'ddp' or 'fsdp'"):
        spread(small_pronouncer().model, "zero")


CASES = [(how, optimizer) for how in ("ddp", "fsdp") for optimizer in ("adamw", "muon")]
CUT = dict(epochs=2, letters_per_batch=9, max_norm=0.05, peak_lr=0.01)    # every gradient is cut


def new_model(seed=0):
    return small_pronouncer(seed, d_model=16).model.double()


def all_of_it(tensor):
    "For `bfloat16`, in which Muon computes: its rounding, by 1 in 256, would hide a mistake."
    return tensor


def train_spread(folder):
    "Each way and optimizer in turn: what process 0 gathers, and what each process holds."
    torch.Tensor.bfloat16 = all_of_it
    for how, optimizer in CASES:
        with processes(limit=30):    # they may meet more than once
            rank, run, config = dist.get_rank(), spread(new_model(), how), TrainingConfig(optimizer=optimizer, **CUT)
            losses = train(run, EXAMPLES, config, progress=False, objective=shared())
            held = [getattr(p, "to_local", lambda p=p: p)().detach().clone() for p in run.parameters()]
            torch.save((losses, held, gather(run)), folder / f"{how}-{optimizer}-{rank}.pt")
            run.zero_grad()
            if (how, optimizer) == CASES[-1]:
                save_shards(folder / "shards", run, optimizers_for(run, config))
    with processes(limit=30):
        other = spread(new_model(seed=1), "ddp")
        load_shards(folder / "shards", other, optimizers_for(other, config))
        torch.save(gather(other), folder / f"read-{rank}.pt")


def test_real_processes_end_at_the_weights_of_one(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "bfloat16", all_of_it)
    Group(2, tmp_path, train_spread, tmp_path).succeed()
    for how, optimizer in CASES:
        one = new_model()
        losses = train(one, EXAMPLES, TrainingConfig(optimizer=optimizer, **CUT), progress=False)
        (told, held, weights), (also, held_there, nothing) = (
            torch.load(tmp_path / f"{how}-{optimizer}-{rank}.pt") for rank in (0, 1)
        )
        assert told == also == pytest.approx(losses, abs=1e-12) and len(told) > 5
        assert nothing == {} and weights.keys() == one.state_dict().keys()
        for name, tensor in one.state_dict().items():
            assert (weights[name] - tensor).abs().max() < 1e-9
        untrained = new_model().state_dict()
        assert max((tensor - untrained[name]).abs().max() for name, tensor in weights.items()) > 0.01
        for p, here, there in zip(one.parameters(), held, held_there, strict=True):
            if how == "ddp":
                assert torch.equal(here, there) and here.shape == p.shape
            else:    # a part of the rows each, the first ones half of them
                assert here.shape == ((len(p) + 1) // 2, *p.shape[1:]) and here.numel() + there.numel() == p.numel()
    assert torch.load(tmp_path / "read-1.pt") == {}
    for name, tensor in torch.load(tmp_path / "read-0.pt").items():
        assert torch.equal(tensor, weights[name])    # sharded when written, whole when read


def test_what_training_holds_is_counted_as_it_is():
    def small():
        return seeded(lambda: nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)), dtype=torch.float32)

    with torch.device("meta"):
        there, given = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)), torch.zeros(5, 4)
    here, zeros = small(), torch.zeros(5, 4)
    kept = activation_bytes(here, lambda: here(zeros)), activation_bytes(there, lambda: there(given))
    assert kept == (4 * (5 * 4 + 5 * 8),) * 2
    model, batch = new_model(), collate(EXAMPLES)
    counted = training_bytes(model, batch)
    optimizer = optimizers_for(model, TrainingConfig())[0]
    loss_of(model, collate(EXAMPLES), TrainingConfig(), 0).backward()
    optimizer.step()
    held = sum(tensor.nbytes for state in optimizer.state.values() for tensor in state.values() if tensor.dim())
    gradients = sum(p.grad.nbytes for p in model.parameters())
    assert (counted["weights"], counted["gradients"], counted["AdamW"]) == (gradients, gradients, held)
    passed = activation_bytes(model, lambda: model(batch.source, batch.inputs, batch.source_mask))
    assert counted["activations"] > passed > 0    # the loss keeps something, too


BUCKETS = TrainingConfig(bfloat16=True, optimizer="adamw", epochs=6, letters_per_batch=9, peak_lr=0.01)


def in_two_bytes(folder):
    "What a step keeps for each weight under autocast, where FSDP knows of it and where not; and a whole training."
    with processes(limit=30):
        for knows in (False, True):
            cut = spread(small_pronouncer(d_model=64).model, "fsdp", knows).train()
            weights = sum(p.numel() for p in cut.parameters())
            kept = activation_bytes(cut, lambda cut=cut: shared()(cut, collate(EXAMPLES[:2]), BUCKETS, 0))
            losses = train(cut, EXAMPLES, BUCKETS, progress=False, objective=shared())
            if dist.get_rank() == 0:
                torch.save((kept / weights, losses), folder / f"{knows}.pt")
        model = small_pronouncer().model
        together = spread(model, "ddp")
        shared()(together.train(), collate(EXAMPLES), BUCKETS, 0).backward()
        views = [p.grad.untyped_storage().nbytes() > p.grad.nbytes for p in model.parameters()]
        if dist.get_rank() == 0:
            torch.save(all(views), folder / "views.pt")


def test_in_bfloat16_no_process_keeps_a_copy_of_the_whole(tmp_path):
    Group(2, tmp_path, in_two_bytes, tmp_path).succeed()
    unaware, aware = (torch.load(tmp_path / f"{knows}.pt") for knows in (False, True))
    assert unaware[0] > 2 and aware[0] < 1    # autocast alone keeps each weight in two bytes
    one = train(small_pronouncer(d_model=64).model, EXAMPLES, BUCKETS, progress=False)
    assert aware[1] == pytest.approx(one, rel=0.05) and aware[1][-1] < 0.8 * aware[1][0]
    assert torch.load(tmp_path / "views.pt")    # DDP's gradients lie in its buckets, not beside them
