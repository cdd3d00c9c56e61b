"""The commands. A user's mistake ends in one sentence and exit status 2; anything else is a bug and shows itself."""

import os
import sys
from collections.abc import Sequence
from dataclasses import replace

import attnreid
from attnreid.command_line import Command, CompletionOptions, Program, UserError
from reference_pipelines.commands.options import (
    CalibrateOptions,
    CheckResultOptions,
    ClaimsOptions,
    ClusterOptions,
    DemoOptions,
    DifficultyOptions,
    EvaluateOptions,
    ExplainOptions,
    ExportOptions,
    ExtractOptions,
    RenderOptions,
    ReportOptions,
    ReproduceOptions,
    SameOptions,
    SearchOptions,
    VerifyOptions,
)
from reference_pipelines.errors import STOPPED, Stopped, out_of_memory

_HERE = "reference_pipelines.commands"
_EXAMPLES = {
    "demo": ("demo --out runs/demo",),
    "evaluate": (
        "evaluate runs/c2",
        "evaluate runs/c2 --data MSMT17_V2 --rerank",
        "evaluate runs/c2 --data photographs.csv --open-set --camera-pairs",
    ),
    "extract": (
        "extract runs/c2 photographs --out features",
        "extract runs/c2 Market-1501-v15.09.15 --part gallery --out gallery",
    ),
    "search": (
        "search runs/c2 --query person.jpg --gallery features --top 10",
        "search runs/c2 --query person.jpg --gallery features --html found.html",
    ),
    "cluster": ("cluster features --out labels.csv", "cluster features --out labels.csv --eps 0.5 --min-samples 4"),
    "calibrate": ("calibrate runs/c2 --data Market-1501-v15.09.15",),
    "same": ("same runs/c2 one.jpg another.jpg", "same runs/c2 one.jpg another.jpg --rate 0.001 --json"),
    "export": ("export runs/c2 --onnx c2.onnx", "export runs/c2 --onnx c2.onnx --fold --preprocessing inside"),
    "report": ("report runs/c2 runs/mla --out report.html",),
    "reproduce": (
        "reproduce list",
        "reproduce apnet.table2 --seeds 3",
        "reproduce mla.table6 --scale paper --data.root datasets --dry-run",
    ),
    "check-result": ("check-result docs/results/ledger",),
    "claims": ("claims docs/results/ledger --scale demo",),
    "data render": ("data render rendered --size tiny",),
    "data verify": ("data verify Market-1501-v15.09.15", "data verify people.csv"),
    "data difficulty": ("data difficulty rendered --run runs/c2",),
    "completion": ("completion bash", "completion zsh"),
}
_QUIET = "--quiet"
_TRAINING = ("train", "resume")  # these take a config's keys
_TOGETHER = (*_TRAINING, "extract", "evaluate", "cluster")  # these run as many processes

COMMANDS = {
    "demo": Command("both papers small, on rendered pedestrians, with a report", f"{_HERE}.demo:run", DemoOptions),
    "train": Command(
        "train and evaluate one recipe", f"{_HERE}.train:run", None, listed=f"{_HERE}.train:listed_options"
    ),
    "resume": Command(
        "go on with a run from its last checkpoint",
        f"{_HERE}.resume:run",
        None,
        listed=f"{_HERE}.resume:listed_options",
    ),
    "evaluate": Command(
        "test a trained network on any data set, without training", f"{_HERE}.evaluate:run", EvaluateOptions
    ),
    "extract": Command(
        "features of a whole set of images, kept on the disk",
        f"{_HERE}.extract:run",
        ExtractOptions,
        "Writes the unit features of a data set's images, or of all images in a folder, into a new folder: "
        "features.npy (float32, a row an image), table.csv (path, id, camera) and meta.json. Images that do not decode "
        "are passed over and named. Stopped at any moment, the same command goes on.",
    ),
    "search": Command(
        "the images of a gallery that are most alike to some images",
        f"{_HERE}.search:run",
        SearchOptions,
        "Ranks the images of a folder of features by their cosine similarity to each query, computed in double "
        "precision; ties are in the order of the gallery. An image that is in the gallery itself comes first.",
    ),
    "cluster": Command(
        "clusters of a gallery without labels, as the training makes them",
        f"{_HERE}.cluster:run",
        ClusterOptions,
        "Clusters features by DBSCAN on k-reciprocal Jaccard distances, MLA's own pseudo-labels, and says how pure the "
        "clusters are where the people or the cameras are known.",
    ),
    "calibrate": Command(
        "thresholds for stated false-match rates, kept beside the weights",
        f"{_HERE}.calibrate:run",
        CalibrateOptions,
        "Finds the similarity from which two images are taken for one person, for each rate of false matches, with "
        "intervals over people; one for each pair of cameras that has enough pairs, and one for all. A rate that the "
        "people are too few for is not estimable, and is said to be. Writes model.calibration.json beside "
        "model.safetensors.",
    ),
    "same": Command(
        "whether two images show one person, at a stated false-match rate",
        f"{_HERE}.same:run",
        SameOptions,
        "Compares the similarity of two images with the threshold of a false-match rate, as calibrate has found it. "
        "Exit status 0 whatever the answer is.",
    ),
    "explain": Command(
        "what a network looks at in images: Grad-CAM after every stage and pyramid level, and its gates",
        f"{_HERE}.explain:run",
        ExplainOptions,
        "Asks why the network gives an image the score of the person whom it takes it for, or with --against why it "
        "finds two images alike. Writes a PNG for each image and index.html with all of them, which needs nothing "
        "beside it: Grad-CAM after each stage and after each level of a pyramid, and the gate of each level. On "
        "images of data render it says how much of each map falls on the person.",
        "Examples:\n"
        "  {program} explain runs/c2 someone.jpg --out explained\n"
        "  {program} explain runs/c2 a.jpg b.jpg c.jpg --against the-same-person.jpg\n"
        "  {program} explain runs/mla someone.jpg --against the-same-person.jpg --json",
    ),
    "export": Command(
        "a network as a file that runs without this package: ONNX, or torch's exported program",
        f"{_HERE}.export:run",
        ExportOptions,
        "The file takes any number of images and gives unit features. It is written once its features are the "
        "network's own: an ONNX file is run by onnxruntime. Its metadata say how images are prepared.",
    ),
    "report": Command("one HTML file about finished runs", f"{_HERE}.report:run", ReportOptions),
    "reproduce": Command(
        "an experiment of a paper by its name: trained, tested, and put beside the paper's numbers",
        f"{_HERE}.reproduce:run",
        ReproduceOptions,
        "Trains what a table or figure needs, as many runs at once as there are cores, and writes the table: the "
        'paper\'s number, ours with its interval, or "not run". Finished runs are taken over, interrupted ones gone '
        "on with; every number goes into the ledger with what made it, and so does every failure.",
    ),
    "check-result": Command(
        "a ledger's scores again, from its ranks, and what was changed in it",
        f"{_HERE}.check_result:run",
        CheckResultOptions,
        "Computes every score of a ledger again from the ranks of the true matches, without images or weights, and "
        "follows the digests from line to line. Exit status 1 if anything is wrong. A ledger that was wholly written "
        "anew would not show: compare its heads with those that were published.",
    ),
    "claims": Command(
        "what a ledger says of each claim of the papers",
        f"{_HERE}.claims:run",
        ClaimsOptions,
        "Gives every comparison of both papers a verdict: reproduced, contradicted, undecided (and how many seeds "
        "would decide), or not run. Runs are paired by query and seed; with fewer than 3 seeds nothing is decided. A "
        "ledger that check-result finds wrong is refused.",
    ),
    "data render": Command("render pedestrians in the Market-1501 layout", f"{_HERE}.data_render:run", RenderOptions),
    "data verify": Command(
        "what a data set is, and what is wrong with it",
        f"{_HERE}.data_verify:run",
        VerifyOptions,
        "Says which data set and version it is, whether it is whole, and what is wrong with it. Exit status 1 if "
        "training or evaluation on it would be wrong.",
    ),
    "data difficulty": Command(
        "how hard a data set is: chance, colours, untrained and trained networks",
        f"{_HERE}.data_difficulty:run",
        DifficultyOptions,
        "Scores chance, two colour histograms, two untrained networks and the runs given, by person and, as a warning, "
        "by camera: how well the same features find other people's images from the query's camera.",
    ),
    "completion": Command(
        "a script that completes words in a shell",
        f"{_HERE}.cli:completion",
        CompletionOptions,
        "Prints a script that completes the program's commands, options and their values in a shell. It knows the "
        "options of this version: print it anew after an upgrade. It is made by shtab. For bash, write it to "
        "~/.local/share/bash-completion/completions/attnreid-pipelines, or source it.",
    ),
}


for _name, _lines in _EXAMPLES.items():
    _text = "\n".join(["examples:", *(f"  {{program}} {line}" for line in _lines)])
    COMMANDS[_name] = replace(COMMANDS[_name], examples=_text)


def _check_processes(command: str) -> None:
    if command not in _TOGETHER and os.environ.get("WORLD_SIZE", "1") != "1":
        able = f"{', '.join(_TOGETHER[:-1])} and {_TOGETHER[-1]}"
        raise UserError(f"{command}: only {able} run as many processes; start it without torchrun")


PROGRAM = Program(
    "attnreid-pipelines",
    "reference_pipelines",
    "The two papers of attnreid as programs: APNet (supervised) and MLA (unsupervised).",
    COMMANDS,
    attnreid.__version__,
    "--quiet, after any command, shows no progress; results and warnings are printed all the same.",
    before=_check_processes,
)


def completion(options: CompletionOptions) -> None:
    """Print the script that completes this program's words."""
    from attnreid.command_line.completion import completion_script  # which imports argparse

    print(completion_script(PROGRAM, options.shell, everywhere=(_QUIET,)))


def main(arguments: Sequence[str]) -> int:
    """Run one command and return the exit status: 2 for a mistake, 130 for Ctrl-C."""
    words = [word for word in arguments if word != _QUIET]
    if len(words) < len(arguments):
        from reference_pipelines.progress import QUIET  # which imports tqdm

        os.environ[QUIET] = "1"
    try:
        # Of several processes that torchrun started the first one speaks.
        return PROGRAM.main(words, speaks=os.environ.get("RANK", "0") == "0")
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] in ("attnreid", "reference_pipelines"):
            raise
        print(f"error: the package {error.name} is missing; pip install 'attnreid[pipelines]'", file=sys.stderr)
        return 2
    except Stopped as stop:
        print(stop, file=sys.stderr)
        return stop.status
    except (MemoryError, RuntimeError, OSError) as error:
        reason = out_of_memory(error)
        if reason is None:
            raise
        # What a run says of itself when it stops.
        kept = "".join(note for note in getattr(error, "__notes__", ()) if note.startswith(STOPPED))
        print(
            f"error: {' '.join(words[:1])}: the memory must suffice, and it did not ({reason}); free some, or take "
            f"smaller batches, smaller images or fewer workers{kept.removeprefix(STOPPED).removesuffix('.')}",
            file=sys.stderr,
            flush=True,
        )
        return 2
