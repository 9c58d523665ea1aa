"""What the commands do: plans, checks, reports, downloads; nothing of OpenMMLab."""
