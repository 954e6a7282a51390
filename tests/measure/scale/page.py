"""docs/scale.md, with the numbers of one run of the program."""

from tests.measure.scale import report, scenarios
from tests.measure.scale.simulation import Result

PAGE = """# How many ranks, and how large a shard

Written by `python -m tests.measure.scale`, with [scale.csv](scale.csv) and [scale.json](scale.json). *Measured* is on
{machine}, commit {commit}. All else is *simulated*: no GPU and no network file system were at hand.

![images a second by ranks, and time in sampling by shards per rank](scale.png)

## Advice

{advice}

## What is assumed

A rank makes 50 images of 256x256 a second (a fast GPU; not measured), in batches of 50, and ranks differ by 3 %
(standard deviation). The network file system takes 1 ms for an operation (open, create, unlink, rename, ...) and does
20,000 a second for all; the slower one 5 ms and 10,000. One operation lists 500 names. A rank writes 1 GB/s. The start
of a process is not counted, but for restarts, which take 60 seconds. What the images weigh on the network is not
counted either: 1,024 such ranks make {gigabytes:.0f} GB/s.

## Which shard size

Time in sampling, of the time of all ranks until the last image is there; the rest is waiting for the last shards,
leases, looks, and storing. The last two columns are of the best. 50,000 images:

{sizes_small}

1,000,000 images:

{sizes_large}

50,000 images of CPU ranks, of which each makes 9.1 images a second (measured, [bench](bench/scaling-fashion.md)):

{sizes_cpu}

## What looking costs

1,000,000 images in 4,000 shards of 250. *Every missing shard* is how ranks looked before: each opened each missing shard
before it took one, and twice a second while it waited. *Names* is one directory listing, only when a rank has made its
part of the shards. Time in looks is of all ranks together and includes leases that were not got.

{polling}

## What failures cost

An hour of work for each number of ranks, while every rank dies once a day. *All ranks* is one torchrun over all
machines, which ends and starts again every rank when one dies (the others store what they have); *the rank alone* is one
command per rank or machine, on one folder, in a loop of the shell.

{failures}

## Whether the model is right

64 real processes on one disk, forked from one, that lease, store and look as ever and sleep for 0.1 seconds instead of
making an image; 12,800 images in batches of 10, or of a shard. Where 12 were killed (SIGKILL, at random moments in the
first 15 seconds), each was started again 5 seconds later. Eight ranks at a time take each other for one machine; leases
of the others have to stand still for 60 seconds.

{checks}

{verdict}

{costs}
"""

ADVICE = """- **Give every rank a shard, then a few.** {rule}
"""


def text(machine: dict, measured: dict, checks: list, tables: dict[str, list[Result]]) -> str:
    """The page."""
    return PAGE.format(
        machine=f"{machine['cores']} cores of {machine['device'].split(',')[0]}",
        commit=machine["commit"],
        advice="",
        verdict="",
        gigabytes=1024 * 256 * 256 * 3 / scenarios.GPU / 1e9,
        sizes_small=report.sizes_table(tables["50,000 images"]),
        sizes_large=report.sizes_table(tables["1,000,000 images"]),
        sizes_cpu=report.sizes_table(tables["50,000 images, CPU"]),
        polling=report.polling_table(tables["polling"]),
        failures=report.failures_table(tables["failures"]),
        checks=report.checks_table(checks),
        costs=report.costs_table(measured),
    )
