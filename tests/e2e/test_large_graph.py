import json
import subprocess
import sys

import pytest

SCRIPT = """
import json, sys, time
from pathlib import Path
import torch
from torch import nn
from ghn.encoders import ENCODERS
from ghn.graphs import trace
from ghn.graphs.batch import GraphBatch
from ghn.graphs.distances import shortest_distances

class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.gate = nn.Conv2d(8, 8, 1)

    def forward(self, x):
        y = self.norm(self.conv(x)).relu()
        return x + y * self.gate(y.mean((2, 3), keepdim=True)).sigmoid()

def gibibytes():
    # Not getrusage: its peak is inherited from the process that started this one.
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 2**20

with torch.device("meta"):
    model = nn.Sequential(nn.Conv2d(3, 8, 3), *[Block() for _ in range(375)])
    images = torch.empty(1, 3, 32, 32)
trace(model[:2], images)  # imports
shortest_distances(trace(model[:2], images))
before, start = gibibytes(), time.perf_counter()
graph = trace(model, images)
traced = time.perf_counter()
shortest_distances(graph)
measured = time.perf_counter()
cls = ENCODERS[sys.argv[1]]
encoder = cls(cls.Config())
batch = GraphBatch.from_graphs([graph])
with torch.no_grad():
    encoder(batch)
forward = gibibytes() - before
encoder(batch).square().sum().backward()
times = traced - start, measured - traced
print(json.dumps([len(graph.nodes), *times, forward, gibibytes() - before]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("encoder", ["graphormer", "gated_gnn"])
def test_three_thousand_nodes_are_traced_measured_and_encoded_in_little_memory(encoder):
    command = [sys.executable, "-c", SCRIPT, encoder]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    nodes, tracing, measuring, forward, backward = json.loads(done.stdout)
    assert nodes >= 3000
    assert measuring < tracing
    assert forward < 4.0
    assert backward < 8.0
