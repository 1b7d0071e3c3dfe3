"""Write o2trac_its.root, o2clus_its.root, o2_primary_vertex.root and dictionary.root with ROOT itself.

    PYTHON write_with_root.py BRANCHES.npz FOLDER

BRANCHES.npz holds the branches of `alignnet.data.o2_branches` (arrays NAME, and `count NAME` of each
collection), and `entries`, the dictionary. They are put into objects of O2's classes (o2_classes.h, compiled
by ROOT), and those into trees as O2's workflows do. PYTHON needs the package ROOT (`pip install ROOT numpy`)
and a C++ compiler; the files in tests/data_files/o2 were made so with ROOT 6.40.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import numpy as np

warnings.simplefilter("ignore")
import ROOT  # noqa: E402

TREES = {
    "o2trac_its.root": ("ITSTrack", "ITSTrackClusIdx", "ITSTracksROF", "Vertices", "VerticesROF"),
    "o2clus_its.root": ("ITSClusterComp", "ITSClusterPatt", "ITSClustersROF"),
    "o2_primary_vertex.root": ("PrimaryVertex",),
}
CLASSES = {
    "ITSTrack": "o2::its::TrackITS",
    "ITSTrackClusIdx": "int",
    "ITSTracksROF": "o2::itsmft::ROFRecord",
    "VerticesROF": "o2::itsmft::ROFRecord",
    "ITSClustersROF": "o2::itsmft::ROFRecord",
    "Vertices": "o2::dataformats::Vertex<o2::dataformats::TimeStamp<int>>",
    "ITSClusterComp": "o2::itsmft::CompClusterExt",
    "ITSClusterPatt": "unsigned char",
    "PrimaryVertex": "o2::dataformats::PrimaryVertex",
}


def fill(objects, collection, branches, rows):
    """One time frame's objects."""
    objects.clear()
    names = [name for name in branches if name.partition(".")[0] == collection]
    objects.resize(rows[1] - rows[0])
    for k, row in enumerate(range(*rows)):
        if names == [collection]:
            objects[k] = int(branches[collection][row])
            continue
        for name in names:
            set_member(objects[k], name.split(".")[1:], branches[name][row])


def set_member(thing, path, value):
    if path[0] == "mPos":  # a ROOT::Math point has no public members
        getattr(thing.mPos, f"Set{path[-1][-1]}")(float(value))
        return
    for name in path[:-1]:
        thing = getattr(thing, name)
    if path[-1] == "mPID":
        thing, path = thing.mPID, ["mID"]
    if np.ndim(value):
        array = getattr(thing, path[-1])
        for k, number in enumerate(value):
            array[k] = float(number)
    elif path[-1] == "mAbsCharge":
        setattr(thing, path[-1], chr(int(value)))
    else:
        setattr(thing, path[-1], value.item())


def write_tree(path, collections, branches, counts):
    file = ROOT.TFile(str(path), "RECREATE")
    tree = ROOT.TTree("o2sim", "")
    vectors = {name: ROOT.std.vector[CLASSES[name]]() for name in collections}
    for name, vector in vectors.items():
        tree.Branch(name, vector)
    for frame in range(len(counts[collections[0]])):
        for name, vector in vectors.items():
            start = int(counts[name][:frame].sum())
            fill(vector, name, branches, (start, start + int(counts[name][frame])))
        tree.Fill()
    tree.Write()
    file.Close()


def write_dictionary(path, entries, by_members=True):
    ROOT.TVirtualStreamerInfo.SetStreamMemberWise(by_members)
    dictionary = ROOT.o2.itsmft.TopologyDictionary()
    members = {"hash": "mHash", "err_x": "mErrX", "err_z": "mErrZ", "err2_x": "mErr2X", "err2_z": "mErr2Z"}
    members |= {"x_cog": "mXCOG", "z_cog": "mZCOG", "n_pixels": "mNpixels", "frequency": "mFrequency"}
    dictionary.mVectorOfIDs.resize(len(entries))
    for number, entry in enumerate(entries):
        group = dictionary.mVectorOfIDs[number]
        for name, member in members.items():
            setattr(group, member, entry[name].item())
        group.mIsGroup = bool(entry["is_group"])
        for k, byte in enumerate(entry["bitmap"]):
            group.mPattern.mBitmap[k] = int(byte)
        (dictionary.mGroupMap if group.mIsGroup else dictionary.mCommonMap)[group.mHash & 0x7FFFFFFF] = number
    file = ROOT.TFile(str(path), "RECREATE")
    file.WriteObjectAny(dictionary, "o2::itsmft::TopologyDictionary", "ccdb_object")
    file.Close()


def main(source, folder):
    shown = Path(__file__).with_name("o2_classes.h")
    ROOT.gSystem.SetBuildDir(str(folder), True)
    if ROOT.gROOT.ProcessLine(f".L {shown}+") != 0:
        sys.exit("ROOT cannot compile o2_classes.h")
    arrays = np.load(source)
    counts = {name.removeprefix("count "): arrays[name] for name in arrays if name.startswith("count ")}
    branches = {name: arrays[name] for name in arrays if not name.startswith("count ") and name != "entries"}
    for name, collections in TREES.items():
        write_tree(folder / name, collections, branches, counts)
    write_dictionary(folder / "dictionary.root", arrays["entries"])
    write_dictionary(folder / "dictionary_entry_by_entry.root", arrays["entries"], by_members=False)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]).resolve())
