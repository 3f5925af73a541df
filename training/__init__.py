import os

# Idle OpenMP threads sleep instead of spinning: beside other work on the machine, spinning makes a step
# up to ten times slower. Read when torch is first loaded; a value that the user has set stays.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
