import subprocess
import sys

import pytest

STEP = """
import threading, time
import torch
from torch import nn
from ghn import GHN, trace

def mebibytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 / 2**20

def chain(width, depth):
    with torch.device("meta"):
        return nn.Sequential(*[nn.Linear(width, width) for _ in range(depth)])

ghn = GHN()
small = chain(8, 2)
sum(v.sum() for v in ghn(trace(small, torch.empty(1, 8))).values()).backward()
model = chain(2048, 24)
graph = trace(model, torch.empty(1, 2048, device="meta"))
before = peak = mebibytes()
done = False

def watch():
    global peak
    while not done:
        peak = max(peak, mebibytes())
        time.sleep(0.003)

thread = threading.Thread(target=watch)
thread.start()
parameters = ghn(graph)
loss = torch.func.functional_call(model, parameters, (torch.randn(1, 2048),)).square().mean()
del parameters
loss.backward()
done = True
thread.join()
print((peak - before) * 2**20 / (4 * sum(p.numel() for p in model.parameters())))
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_training_step_on_100m_parameters_holds_one_copy_and_its_gradient():
    done = subprocess.run([sys.executable, "-c", STEP], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 2.1
