"""The engine tests run Snakemake as the workflow tests do."""

from tests.workflow.conftest import snakemake as snakemake
