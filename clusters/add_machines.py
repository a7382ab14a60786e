"""Tells a running on-premise cluster of machines that were added to `worker_ips`. Run on the head by

    uv run ray up --no-restart clusters/onprem.yaml        # after the change: takes the new file to the head
    uv run ray exec clusters/onprem.yaml '~/mollify-env/bin/python mollify/clusters/add_machines.py'

Ray's autoscaler sees at once that it may have more machines, but it knows their addresses from a file that it wrote
when it started (Ray 2.60); this adds the new ones there. It then sets them up and starts Ray on them by itself.
"""

from pathlib import Path

import yaml
from ray.autoscaler._private.local.node_provider import LocalNodeProvider

if __name__ == "__main__":
    config = yaml.safe_load((Path.home() / "ray_bootstrap_config.yaml").read_text(encoding="utf-8"))
    provider = LocalNodeProvider(config["provider"], config["cluster_name"])  # it writes what its file lacks
    known = sorted(set(provider.state.get()) - {config["provider"]["head_ip"]})
    print(f"{config['cluster_name']}: the head knows {len(known)} machines beside itself: {', '.join(known)}")
