"""A Ray cluster of two nodes on this machine, in a process of its own.

  python -m tests.jobs.ray_nodes

Prints the address; a line `remove` on stdin removes the second node, the end of stdin ends the cluster.
"""

import os
import sys

os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
               "RAY_enable_worker_prestart": "0", "RAY_prestart_worker_first_driver": "0", "RAY_worker_niceness": "0"}

from ray.cluster_utils import Cluster


def main() -> None:
  cluster = Cluster(initialize_head=True, connect=False,
                    head_node_args={"num_cpus": 1, "include_dashboard": False, "object_store_memory": 100 << 20})
  second = cluster.add_node(num_cpus=1, object_store_memory=100 << 20)
  print(cluster.address, flush=True)
  for line in sys.stdin:
    if line.strip() == "remove":
      cluster.remove_node(second, allow_graceful=False)
      print("removed", flush=True)
  cluster.shutdown()


if __name__ == "__main__":
  main()
