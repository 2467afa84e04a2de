# Judge the half maps: unmasked, masked and phase-randomised FSC, resolution, angular coverage, hand, model.


rule validate_maps:
    input:
        half1="<results>/reconstruct/refine/half1.mrc",
        half2="<results>/reconstruct/refine/half2.mrc",
        mask="<results>/reconstruct/refine/mask.mrc",
        particles="<results>/reconstruct/refine/particles.star",
        verdicts="<results>/reconstruct/refine/verdicts.json",
        model=[project.settings.input.model] if project.settings.input.model else [],
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
        model=(
            ["--model", project.settings.input.model]
            if project.settings.input.model
            else []
        ),
    shell:
        "emflow validate maps {input.half1} {input.half2} {params.folder}"
        " --mask {input.mask} --particles {input.particles} --reconstruct {params.reconstruct} {params.model:q}"
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
