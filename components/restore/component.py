"""KFP component of the restore step."""

from kfp import dsl

from components.kubeflow import component


@component("restore")
def restore(
    sites_file: str,
    server: str,
    workspace: str,
    version: int,
    data_fingerprint: str,
    config: dict,
    restoration: dsl.Output[dsl.Artifact],
) -> None:
    """Restore a held-out series of each modality through Triton into a derived DICOM series.

    The DICOM carries the patient, so it goes to the workspace's `restored` folder and never into an artifact.

    Args:
        sites_file: path of sites.yaml on the volume that holds the sites' DICOM.
        server: HOST:PORT of Triton.
        workspace: folder below which the series are delivered.
        version: the version that serves.
        data_fingerprint: hash of the sites' files; a new one makes a cached restore run again.
        config: parameters of the step (RestoreConfig).
        restoration: restore.json and pictures, free of PHI.
    """
    from pathlib import Path

    from components.command import configure, reported
    from components.restore.step import RestoreConfig
    from components.restore.step import restore as run

    with reported("restore"):
        settings = configure(RestoreConfig, config, "restore", server=server)
        run(Path(sites_file), Path(restoration.path), Path(workspace) / "restored" / f"version-{version}", settings)
