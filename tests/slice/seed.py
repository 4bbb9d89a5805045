"""The two files of a seed, as holm-agent writes them: seed.py fresh|kept|terminal|recorded CA TERMINAL_CA RECORDED_CA"""

import base64
import json
import sys

fresh, (ca, terminal_ca, recorded_ca) = sys.argv[1] == "fresh", sys.argv[2:5]
told = {
    "slice": "0190163d-8694-739b-aea5-966c26f8ad91", "project": "heart", "level": "3", "level_name": "Sensitive",
    "gpus": 4, "idle_minutes": 1, "gpu_pci_ids": ["1af4:1110"], "ssh_ca": ca, "people": "0123456789abcdef",
    "users": [{"name": "ida", "uid": 10001}, {"name": "bo", "uid": 10002}],
    "disks": [{"serial": "data", "fresh": fresh}, {"serial": "scratch", "fresh": True}],
}
# What an agent says of Slurm; without it jobs are of the usual classes.
if not fresh:
    told["scheduler"] = {
        "of": "00000000000000aa", "drain": False,
        "classes": [{"name": "normal", "priority": 100, "wall_minutes": 2880}, {"name": "seeded", "priority": 1, "gpus": 9, "wall_minutes": 90}],
    }
if sys.argv[1] == "terminal":
    told |= {"ssh": "terminal", "ssh_terminal_ca": terminal_ca}
if sys.argv[1] == "recorded":
    # The two others are nobody's then; here they are somebody's, who does not get in.
    told |= {"ssh": "recorded", "ssh_terminal_ca": terminal_ca, "ssh_recorded_ca": recorded_ca}
    told["readers"] = [{"name": "rosa", "uid": 10003}]
content = base64.b64encode(json.dumps(told).encode()).decode()
file = {"path": "/etc/holm/slice.json", "owner": "root:root", "permissions": "0600", "encoding": "b64", "content": content}
with open("user-data", "w") as user_data:
    user_data.write("#cloud-config\n" + json.dumps({"write_files": [file]}) + "\n")
with open("meta-data", "w") as meta_data:
    meta_data.write("{}\n")
