# Judge the half maps: unmasked, masked and phase-randomised FSC, resolution, angular coverage.


rule validate_maps:
    input:
        half1="<results>/reconstruct/refine/half1.mrc",
        half2="<results>/reconstruct/refine/half2.mrc",
        mask="<results>/reconstruct/refine/mask.mrc",
        particles="<results>/reconstruct/refine/particles.star",
        verdicts="<results>/reconstruct/refine/verdicts.json",
    output:
        validation="<results>/validate/validation.json",
        fsc="<results>/validate/fsc.star",
        metrics="<results>/validate/metrics.json",
        verdicts="<results>/validate/verdicts.json",
    log:
        "<results>/records/validate.maps/all.json",
    conda:
        "../../envs/emflow.yaml"
    threads: project.threads(8)
    resources:
        mem_mb=lambda wildcards, attempt: 16000 * attempt,
        runtime=lambda wildcards, attempt: 120 * attempt,
    params:
        cfg=section("validate.maps"),
        folder=subpath(output.validation, parent=True),
        reconstruct=subpath(input.verdicts, parent=True),
    shell:
        "emflow validate maps {input.half1} {input.half2} {params.folder}"
        " --mask {input.mask} --particles {input.particles} --reconstruct {params.reconstruct}"
        " --json {params.cfg:q} --threads {threads} --record {log}"


rule validate_local:
    input:
        half1="<results>/reconstruct/refine/half1.mrc",
        half2="<results>/reconstruct/refine/half2.mrc",
        mask="<results>/reconstruct/refine/mask.mrc",
    output:
        metrics="<results>/validate/local/metrics.json",
        verdicts="<results>/validate/local/verdicts.json",
    log:
        "<results>/records/validate.local/all.json",
    conda:
        "../../envs/emflow.yaml"
    threads: project.threads(8)
    resources:
        mem_mb=lambda wildcards, attempt: 16000 * attempt,
        runtime=lambda wildcards, attempt: 120 * attempt,
    params:
        cfg=section("validate.local"),
        folder=subpath(output.metrics, parent=True),
    shell:
        "emflow validate local {input.half1} {input.half2} {params.folder} --mask {input.mask}"
        " --json {params.cfg:q} --threads {threads} --record {log}"


if "heterogeneity" in project.rooms:

    rule validate_states:
        input:
            latents="<results>/heterogeneity/latents.star",
            mask="<results>/reconstruct/refine/mask.mrc",
        output:
            states="<results>/validate/states/states.star",
            metrics="<results>/validate/states/metrics.json",
            verdicts="<results>/validate/states/verdicts.json",
        log:
            "<results>/records/validate.states/all.json",
        conda:
            "../../envs/emflow.yaml"
        threads: project.threads(8)
        resources:
            mem_mb=lambda wildcards, attempt: 16000 * attempt,
            runtime=lambda wildcards, attempt: 120 * attempt,
        params:
            cfg=section("validate.states"),
            analysis=subpath(input.latents, parent=True),
            folder=subpath(output.states, parent=True),
        shell:
            "emflow validate states {params.analysis} {params.folder} --mask {input.mask}"
            " --json {params.cfg:q} --threads {threads} --record {log}"
