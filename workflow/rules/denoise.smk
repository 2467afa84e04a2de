# Denoise micrographs with the general model, or with the weights that denoise.apply.weights names: those of a shard
# where picking or a simulated session's score reads them (picking then removes them, unless
# execution.keep_denoised), else a few for the report. The images lie beside a table and are not declared, so that a
# rerun keeps what is still good. Training is never part of
# a run: ask for its model by name (snakemake ... results/PROJECT/denoise/model/model.safetensors), then set
# denoise.apply.weights to it. Nor is the check, which asks independent data what of the denoised micrographs they bear
# out: ask for results/PROJECT/denoise/check/metrics.json.


rule denoise_train:
    input:
        expand("<results>/session/check/shard_{shard}.star", shard=project.shards),
    output:
        "<results>/denoise/model/model.safetensors",
        "<results>/denoise/model/model.json",
        "<results>/denoise/model/metrics.json",
        "<results>/denoise/model/verdicts.json",
    log:
        "<results>/records/denoise.train/all.json",
    conda:
        "../../envs/emflow.yaml"
    threads: project.threads(8 * max(1, project.gpus))
    resources:
        gpu=project.gpus,
        mem_mb=lambda wildcards, attempt: 8000 * attempt * max(1, project.gpus),
        runtime=lambda wildcards, attempt: 480 * attempt,
    params:
        cfg=section("denoise.train"),
        folder=subpath(output[0], parent=True),
    shell:
        "emflow denoise train {input} {params.folder}"
        " --json {params.cfg:q} --threads {threads} --gpus {resources.gpu} --record {log}"


rule denoise_apply:
    input:
        micrographs="<results>/session/check/shard_{shard}.star",
        weights=[
            name
            for key in ("weights", "restorer")
            for name in [getattr(project.settings.section("denoise.apply"), key)]
            if name
        ],
    output:
        "<results>/denoise/shard_{shard}.star",
    log:
        "<results>/records/denoise.apply/shard_{shard}.json",
    retries: project.retries
    conda:
        "../../envs/emflow.yaml"
    threads: project.threads(4)
    resources:
        gpu=project.gpu,
        mem_mb=lambda wildcards, attempt: 4000 * attempt,
        runtime=lambda wildcards, attempt: 240 * attempt,
    params:
        cfg=project.denoising,
    shell:
        "emflow denoise apply {input.micrographs} {output}"
        " --json {params.cfg:q} --threads {threads} --record {log}"


use rule denoise_apply as denoise_shown with:
    input:
        micrographs="<results>/session/quality.star",
        weights=[
            name
            for key in ("weights", "restorer")
            for name in [getattr(project.settings.section("denoise.apply"), key)]
            if name
        ],
    output:
        "<results>/denoise/shown/micrographs.star",
    log:
        "<results>/records/denoise.apply/shown.json",
    params:
        cfg=project.section("denoise.apply", examples=6),


rule denoise_check:
    input:
        tables=expand(
            "<results>/session/check/shard_{shard}.star", shard=project.shards
        ),
        weights=[
            name
            for name in [project.settings.section("denoise.check").weights]
            if name
        ],
    output:
        "<results>/denoise/check/micrographs.star",
        "<results>/denoise/check/spectra.star",
        "<results>/denoise/check/metrics.json",
        "<results>/denoise/check/verdicts.json",
        "<results>/denoise/check/trust.png",
    log:
        "<results>/records/denoise.check/all.json",
    conda:
        "../../envs/emflow.yaml"
    threads: project.threads(4)
    resources:
        gpu=project.gpu,
        mem_mb=lambda wildcards, attempt: 4000 * attempt,
        runtime=lambda wildcards, attempt: 240 * attempt,
    params:
        cfg=section("denoise.check"),
        folder=subpath(output[0], parent=True),
    shell:
        "emflow denoise check {input.tables} {params.folder}"
        " --json {params.cfg:q} --threads {threads} --record {log}"
