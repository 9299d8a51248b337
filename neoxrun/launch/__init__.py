"""From a plan to running ranks: the job, the launcher, the agent of a host, a rank."""
