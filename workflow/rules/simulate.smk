# Score the results against the truth of a simulated session (input.truth).

if project.settings.input.truth:

    rule simulate_score:
        input:
            truth=f"{project.settings.input.truth}/facts.json",
            quality="<results>/session/quality.star",
            picks=expand("<results>/pick/shard_{shard}.star", shard=project.shards),
            ctf=expand("<results>/ctf/shard_{shard}.star", shard=project.shards),
            abinitio="<results>/reconstruct/abinitio/particles.star",
            refine="<results>/reconstruct/refine/particles.star",
            validation="<results>/validate/metrics.json",
            denoised=project.of("denoise", "<results>/denoise/shard_{shard}.star"),
            compared=(
                expand(
                    "<results>/pick/{pixels}/shard_{shard}.star",
                    pixels=project.other_pixels,
                    shard=project.shards,
                )
                if project.other_pixels
                else []
            ),
            states=project.of("heterogeneity", "<results>/heterogeneity/latents.star"),
        output:
            "<results>/simulate/metrics.json",
        log:
            "<results>/records/simulate.score/all.json",
        conda:
            "../../envs/emflow.yaml"
        threads: project.threads(4)
        resources:
            mem_mb=lambda wildcards, attempt: 8000 * attempt,
            runtime=lambda wildcards, attempt: 120 * attempt,
        params:
            cfg=section("simulate.score"),
            truth=subpath(input.truth, parent=True),
            project=subpath(input.quality, ancestor=2),
            folder=subpath(output[0], parent=True),
        shell:
            "emflow simulate score {params.truth} {params.project} {params.folder}"
            " --json {params.cfg:q} --threads {threads} --record {log}"
