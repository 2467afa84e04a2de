# How the particles differ: a mean map and components in two halves, then states and volumes.


if "heterogeneity.fit" not in project.frozen:

    rule heterogeneity_fit:
        input:
            particles="<results>/reconstruct/refine/particles.star",
            map="<results>/reconstruct/refine/map.mrc",
            mask="<results>/reconstruct/refine/mask.mrc",
        output:
            latents="<results>/heterogeneity/fit/latents.star",
            mean="<results>/heterogeneity/fit/mean.mrc",
            metrics="<results>/heterogeneity/fit/metrics.json",
            verdicts="<results>/heterogeneity/fit/verdicts.json",
        log:
            "<results>/records/heterogeneity.fit/all.json",
        conda:
            "../../envs/emflow.yaml"
        threads: project.threads(16)
        resources:
            gpu=project.gpu,
            mem_mb=lambda wildcards, attempt: 16000 * attempt,
            runtime=lambda wildcards, attempt: 720 * attempt,
        params:
            cfg=section("heterogeneity.fit"),
            folder=subpath(output.latents, parent=True),
            maps=subpath(input.map, parent=True),
        shell:
            "emflow heterogeneity fit {input.particles} {params.maps} {params.folder}"
            " --previous {params.folder}/.previous"
            " --json {params.cfg:q} --threads {threads} --record {log}"


rule heterogeneity_analyze:
    input:
        latents="<results>/heterogeneity/fit/latents.star",
        mean="<results>/heterogeneity/fit/mean.mrc",
    output:
        latents="<results>/heterogeneity/latents.star",
        mean="<results>/heterogeneity/mean.mrc",
        metrics="<results>/heterogeneity/metrics.json",
        verdicts="<results>/heterogeneity/verdicts.json",
    log:
        "<results>/records/heterogeneity.analyze/all.json",
    conda:
        "../../envs/emflow.yaml"
    threads: project.threads(4)
    resources:
        mem_mb=lambda wildcards, attempt: 8000 * attempt,
        runtime=lambda wildcards, attempt: 120 * attempt,
    params:
        cfg=section("heterogeneity.analyze"),
        fitted=subpath(input.latents, parent=True),
        folder=subpath(output.latents, parent=True),
    shell:
        "emflow heterogeneity analyze {params.fitted} {params.folder}"
        " --json {params.cfg:q} --threads {threads} --record {log}"


rule heterogeneity_traverse:
    input:
        latents="<results>/heterogeneity/fit/latents.star",
        mean="<results>/heterogeneity/fit/mean.mrc",
    output:
        metrics="<results>/heterogeneity/path/metrics.json",
        verdicts="<results>/heterogeneity/path/verdicts.json",
    log:
        "<results>/records/heterogeneity.traverse/all.json",
    conda:
        "../../envs/emflow.yaml"
    threads: project.threads(4)
    resources:
        mem_mb=lambda wildcards, attempt: 8000 * attempt,
        runtime=lambda wildcards, attempt: 60 * attempt,
    params:
        cfg=section("heterogeneity.traverse"),
        fitted=subpath(input.latents, parent=True),
        folder=subpath(output.metrics, parent=True),
    shell:
        "emflow heterogeneity traverse {params.fitted} {params.folder}"
        " --json {params.cfg:q} --threads {threads} --record {log}"


rule heterogeneity_check:
    input:
        fitted="<results>/heterogeneity/fit/latents.star",
        latents="<results>/heterogeneity/latents.star",
        mask="<results>/reconstruct/refine/mask.mrc",
    output:
        metrics="<results>/heterogeneity/check/metrics.json",
        verdicts="<results>/heterogeneity/check/verdicts.json",
    log:
        "<results>/records/heterogeneity.check/all.json",
    conda:
        "../../envs/emflow.yaml"
    threads: project.threads(8)
    resources:
        gpu=project.gpu,
        mem_mb=lambda wildcards, attempt: 16000 * attempt,
        runtime=lambda wildcards, attempt: 240 * attempt,
    params:
        cfg=section("heterogeneity.check"),
        fitted=subpath(input.fitted, parent=True),
        analysis=subpath(input.latents, parent=True),
        folder=subpath(output.metrics, parent=True),
    shell:
        "emflow heterogeneity check {params.fitted} {params.analysis} {params.folder} --mask {input.mask}"
        " --json {params.cfg:q} --threads {threads} --record {log}"
